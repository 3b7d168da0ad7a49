"""Equal shares of a model's large tensors: nothing is lost, whatever the sizes."""

from __future__ import annotations

import types
from unittest import mock

import hypothesis.strategies as st
import jax
import numpy as np
from hypothesis import given

from jaxdist.parallel import flat_shards
from jaxdist.parallel.flat_shards import SHARDED, WHOLE, FlatShards
from jaxdist.state import flatten, unflatten


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
    with mock.patch.object(flat_shards, "jnp", np):  # JAX would compile for each
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


def test_inside_a_program_blocks_are_stored_and_restored_each_by_itself():
    rng = np.random.default_rng(0)
    leaves = {"a/kernel": rng.normal(size=(3, 5)), "b/kernel": rng.normal(size=(4,)), "a/bias": rng.normal(size=(2,))}
    tree = {name: unflatten({n: a.astype(np.float32) for n, a in leaves.items()}) for name in ("first", "second")}
    layout = FlatShards(tree, np.float32, 3, 4)
    stored = jax.jit(layout.store)(tree)
    assert stored["first"][SHARDED]["kernel"].shape == (21,) and flatten(stored["first"][WHOLE]).keys() == {"a/bias"}
    back = {block: jax.jit(layout.restore_block, static_argnums=0)(block, own) for block, own in stored.items()}
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    specs = layout.specs("divided", "whole")
    assert specs == {block: {SHARDED: "divided", WHOLE: "whole"} for block in ("first", "second")}
