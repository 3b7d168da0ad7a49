"""The run signature: what differs is named with both values."""

from __future__ import annotations

from jaxdist.ps.signature import differences


def test_entries_that_both_have_are_compared():
    assert differences({"a": 1, "b": 2, "mine": 3}, {"a": 1, "b": 2, "theirs": 4}) == ""
    text = differences({"b": 2, "a": "x"}, {"a": "y", "b": 3})
    assert text == "a ('x' here, 'y' there), b (2 here, 3 there)"
