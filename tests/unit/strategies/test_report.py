"""A strategy that has nothing to say besides its metrics leaves rows, events and summary as they are."""

from __future__ import annotations

from jaxdist.strategies.report import Report


def test_it_says_nothing_and_leaves_evaluating_to_this_process():
    report = Report()
    assert (report.row(), report.waits(), report.events(), report.summary()) == ({}, {}, [], {})
    assert report.evaluations() is None  # an empty list would be: another process evaluates
    assert report.gather([1, 2]) == [[1, 2]]
