"""Rules that divide arrays among devices: which one wins, which are refused, and those of the families."""

from __future__ import annotations

import sys
import types

import pytest
from helpers.reference import TINY, make_task

from jaxdist import models
from jaxdist.models import cnn
from jaxdist.parallel import partition_rules
from jaxdist.parallel.partition_rules import Rule, assign
from jaxdist.state import flatten


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


@pytest.mark.parametrize("name", sorted(TINY.keys() - {"dense"}))  # which has none
def test_families_have_rules_that_fit(name):
    chain = make_task(name).model
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
    module.build = cnn.build
    module.partition_rules = lambda **options: (f"dense/kernel = -,model  # {options}",)
    monkeypatch.setitem(sys.modules, "own_model", module)
    chain = models.build("own_model:build", inputs=(8, 8, 1), num_outputs=10, settings={}, options={"width": 4})
    assert chain.partition_rules == ("dense/kernel = -,model  # {'width': 4}",)


def test_rules_may_be_written_with_blanks():
    assert (
        partition_rules.parse("a = - - model")
        == partition_rules.parse("a = -,-,model")
        == (Rule("a", (None, None, "model")),)
    )
