"""Metrics are sums, divided once; phases of a run are timed, even one that fails."""

from __future__ import annotations

import math

import pytest
from helpers.clock import Clock

from jaxdist.train import metrics
from jaxdist.train.metrics import PhaseTimer, Sums


def test_unequal_batches_count_by_their_examples():
    sums = Sums()
    sums.add({"loss_sum": 3.0, "correct": 2, "count": 3})
    sums.add({"loss_sum": 1.0, "correct": 0, "count": 5})
    assert (sums.loss, sums.accuracy, sums.count) == (0.5, 0.25, 8.0)
    assert math.isnan(Sums().loss) and math.isnan(Sums().accuracy)  # no average of nothing is 0


def test_seconds_add_up_in_each_phase_and_go_on_where_they_were(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    timer = PhaseTimer({"train": 10.0, "phase boundary": 1.0})
    with timer.phase("train"):
        clock.sleep(2.0)
    with pytest.raises(KeyError), timer.phase("evaluate"):
        clock.sleep(3.0)
        raise KeyError
    with timer.phase("another"):
        clock.sleep(4.0)
    assert timer.seconds == {
        "read": 0.0,
        "compile": 0.0,
        "train": 12.0,
        "evaluate": 3.0,
        "checkpoint": 0.0,
        "phase boundary": 1.0,
        "another": 4.0,
    }
