"""Nested dicts and flat ones: each from the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jaxdist.state import flatten, unflatten

names = st.sampled_from(["a", "a1", "a_", "b", "kernel"])
inner = st.dictionaries(names, st.integers() | st.dictionaries(names, st.integers(), min_size=1), min_size=1)
trees = st.dictionaries(names, st.integers() | inner)


@given(trees)
def test_each_is_made_of_the_other_in_sorted_order(tree):
    flat = flatten(tree)
    assert unflatten(flat) == tree
    assert flatten(unflatten(dict(reversed(flat.items())))) == flat
    assert [path.split("/") for path in flat] == sorted(path.split("/") for path in flat)
    for path, leaf in flat.items():
        node = tree
        for key in path.split("/"):
            node = node[key]
        assert node == leaf


def test_what_is_empty_is_dropped_and_a_leaf_alone_has_no_path():
    assert flatten({"a": {}, "b": {"c": 1}}) == {"b/c": 1}
    assert flatten(5) == {"": 5}
