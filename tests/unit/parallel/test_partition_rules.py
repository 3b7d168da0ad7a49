"""Meshes, rules and equal shares: pure functions, over random sizes."""

from __future__ import annotations

import math
import sys
import types

import hypothesis.strategies as st
import numpy as np
import pytest
from helpers.reference import TINY, make_task
from hypothesis import given, settings

from jaxdist import models
from jaxdist.cost.collectives import Collective, collectives, totals
from jaxdist.parallel import mesh, partition_rules
from jaxdist.parallel.flat_shards import FlatShards
from jaxdist.parallel.partition_rules import Rule, assign
from jaxdist.state import flatten, unflatten


def test_meshes():
    assert mesh.parse("", 6) == {"data": 6}
    assert mesh.parse("data:2,model:2", 4) == {"data": 2, "model": 2}
    assert list(mesh.parse("model:2 data:3", 6)) == ["model", "data"]
    assert mesh.parse("model:4", 4) == {"data": 1, "model": 4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:2,model:2", "2 x 2 = 4 devices, and there are 6"),
        ("data:2,tensor:3", "axis 'tensor'; there are data and model"),
        ("data:2,data:3", "names the axis 'data' twice"),
        ("data=6", "'data=6' in 'data=6' is not NAME:SIZE"),
        ("data:0", "is not NAME:SIZE"),
    ],
)
def test_meshes_that_cannot_be(text, words):
    with pytest.raises(ValueError, match=words):
        mesh.parse(text, 6)


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data())
def test_every_share_of_the_batch_is_somewhere(data, model, data_first, draw):
    sizes = {"data": data, "model": model} if data_first else {"model": model, "data": data}
    processes = draw.draw(st.sampled_from([n for n in range(1, data * model + 1) if data * model % n == 0]))
    try:
        shares = mesh.shares(processes, sizes)
    except ValueError:  # such as 3 x 2 devices on 3 processes, data last: shares that overlap
        assert processes != data * model  # one device each always has one share
        return
    counts = {count for _, count in shares}
    assert len(counts) == 1 and {index for index, _ in shares} == set(range(counts.pop()))


def test_the_first_rule_that_matches_wins():
    rules = partition_rules.parse("a/kernel = -,model; kernel = model,-")
    shapes = {"a/kernel": (2, 4), "b/kernel": (2, 4), "b/bias": (4,)}
    found = assign(rules, shapes, {"data": 1, "model": 2}, strict=True)
    assert found.partitions == {"a/kernel": (None, "model"), "b/kernel": ("model", None), "b/bias": ()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere = model", "matches nothing, among conv/kernel, conv/bias"),
        ("kernel = -,-,model,-; conv/kernel = -,-,-,model", "matches only what rules before it match"),
        ("kernel = -,-,-,tensor", "names the axis 'tensor', and the mesh has data, model"),
        ("kernel = -,-,model,model", "one axis for two dims"),
        ("kernel = -,-,-,model", r"dim 3 of conv/kernel \[3, 3, 4, 7\] is 7, which the axis model:2 does not divide"),
        ("bias = -,model", r"for 2 dims, and conv/bias \[7\] has 1"),
        ("kernel", "is not PATTERN = PARTITION"),
        ("ker(nel = model", "no regular expression"),
    ],
)
def test_rules_that_cannot_be(text, words):
    shapes = {"conv/kernel": (3, 3, 4, 7), "conv/bias": (7,)}
    with pytest.raises(ValueError, match=words):
        assign(partition_rules.parse(text), shapes, {"data": 1, "model": 2}, strict=True)


def test_a_family_s_rules_leave_whole_what_does_not_divide():
    rules = [Rule("kernel", (None, "model")), Rule("absent", ("model",))]
    found = assign(rules, {"kernel": (4, 7)}, {"model": 2}, strict=False)
    assert found.partitions == {"kernel": ()} and "does not divide" in found.kept_whole["kernel"]


@pytest.mark.parametrize("name", sorted(TINY))
def test_families_have_rules_that_fit(name):
    chain = make_task(name).chain
    shapes = {f"{b}/{n}": s.shape for b, (p, t) in chain.shapes.items() for n, s in (flatten(p) | flatten(t)).items()}
    rules = partition_rules.parse("; ".join(chain.partition_rules))
    assert rules
    for rule in rules:
        found = assign([rule], shapes, {"model": 2}, strict=False)
        assert any("model" in partition for partition in found.partitions.values()) or found.kept_whole, rule
    assign(rules, shapes, {"model": 1}, strict=True)


def test_a_model_of_the_user_s_own_may_have_rules(monkeypatch):
    """In the module that is named, even where its function comes from another."""
    module = types.ModuleType("own_model")
    module.build = models.cnn.build
    module.partition_rules = lambda **options: (f"dense/kernel = -,model  # {options}",)
    monkeypatch.setitem(sys.modules, "own_model", module)
    chain = models.build("own_model:build", input_shape=(8, 8, 1), num_classes=10, settings={}, options={"width": 4})
    assert chain.partition_rules == ("dense/kernel = -,model  # {'width': 4}",)


def test_rules_may_be_written_with_blanks():
    assert (
        partition_rules.parse("a = - - model")
        == partition_rules.parse("a = -,-,model")
        == (Rule("a", (None, None, "model")),)
    )


@settings(max_examples=30)  # JAX compiles for each
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=5),
    st.integers(1, 7),
    st.integers(0, 30),
    st.data(),
)
def test_shares_are_equal_and_lose_nothing(shapes, count, threshold, data):
    rng = np.random.default_rng(0)
    kinds = ("kernel", "bias", "scale")
    flat = {f"layer{i}/{kinds[i % 3]}": rng.normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)}
    tree = {"block": unflatten(flat)}
    shaped = {"block": unflatten({n: types.SimpleNamespace(shape=a.shape) for n, a in flat.items()})}
    layout = FlatShards(shaped, np.float32, count, threshold)
    stored = layout.store(tree)["block"]
    for kind, vector in stored["sharded"].items():
        assert vector.size == count * layout.share("block", kind)
        assert vector.size - sum(a.size for n, a in flat.items() if n.endswith(kind) and a.size >= threshold) < count
    portions = {path.removeprefix("block/"): ends for path, ends in layout.portions(0, count).items()}
    first = data.draw(st.integers(0, count - 1))  # what a process puts together of its portions are its shares
    end = data.draw(st.integers(first + 1, count))
    own = {p.removeprefix("block/"): ends for p, ends in layout.portions(first, end).items()}
    cut = {n: a.reshape(-1)[slice(*own[n])] if n in own else a for n, a in flat.items()}
    for kind, held in layout.store_portions("block", unflatten(cut), first, end)["sharded"].items():
        share = layout.share("block", kind)
        np.testing.assert_array_equal(held, stored["sharded"][kind][first * share : end * share])
    assert portions == {n: (0, a.size) for n, a in flat.items() if a.size >= max(threshold, 1)}
    back = flatten(layout.restore_block("block", stored))
    assert back.keys() == flat.keys()
    for name, array in flat.items():
        np.testing.assert_array_equal(back[name], array)
    whole = flatten(stored["whole"])
    assert all((a.size >= max(threshold, 1)) == (n not in whole) for n, a in flat.items())


def test_collectives_are_read_from_a_program():
    text = """
      %all-reduce.1 = f32[8,4]{1,0} all-reduce(%p), channel_id=1, replica_groups=[2,2]<=[4], to_apply=%add
      %ag = (f64[2]{0}, s32[3]{0}) all-gather(%a, %b), replica_groups={{0,1,2,3}}, dimensions={0}
      %cp = bf16[10]{0} collective-permute(%c), source_target_pairs={{0,1}}
      %alone = f32[8]{0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%add
      %fusion = f32[8,4]{1,0} fusion(%all-reduce.1), kind=kLoop
    """
    found = collectives(text, 4)
    assert found == [
        Collective("all-reduce", 128, 2),
        Collective("all-gather", 28, 4),
        Collective("collective-permute", 20, 4),
    ]
    assert totals(found)["all-reduce"] == {"count": 1, "bytes": 128, "bytes_sent": 128}
    assert found[1].bytes_sent == math.ceil(28 * 3 / 4)
