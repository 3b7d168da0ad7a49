"""Metrics are sums, divided once; phases of a run are timed, even one that fails."""

from __future__ import annotations

import importlib
import math

import pytest
from helpers.clock import Clock

from jaxdist.data.prefetch import prefetch
from jaxdist.task import Classification
from jaxdist.train import metrics
from jaxdist.train.metrics import PhaseTimer, Sums, waited_for_batch

prefetch_module = importlib.import_module("jaxdist.data.prefetch")


def test_unequal_batches_count_by_their_examples():
    sums = Sums(Classification())
    sums.add({"loss_sum": 3.0, "correct": 2, "count": 3})
    sums.add({"loss_sum": 1.0, "correct": 0, "count": 5})
    assert sums.values() == {"loss": 0.5, "accuracy": 0.25} and sums.count == 8.0
    assert all(map(math.isnan, Sums(Classification()).values().values()))  # no average of nothing is 0


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    return clock


def named(timer: PhaseTimer) -> dict[str, float]:
    return {name: seconds for name, seconds in timer.seconds.items() if seconds}


def test_each_moment_counts_to_one_phase(clock):
    timer = PhaseTimer(clock.now - 1.0)  # it had begun before
    with timer.phase("read"):
        clock.sleep(2.0)
        with timer.phase("preprocess"):
            clock.sleep(4.0)
        clock.sleep(8.0)
    clock.sleep(16.0)
    timer.enter("other")
    with pytest.raises(KeyError), timer.phase("evaluate"):
        clock.sleep(32.0)
        raise KeyError
    with timer.phase("another"):
        clock.sleep(64.0)
        assert timer.seconds["another"] == 64.0  # while it goes on
    clock.sleep(128.0)
    expected = {"startup": 17.0, "read": 10.0, "preprocess": 4.0, "evaluate": 32.0, "another": 64.0, "other": 128.0}
    assert named(timer) == expected and sum(expected.values()) == clock.now - timer.begin


def test_waiting_for_a_batch_is_taken_out_of_what_waited(clock, monkeypatch):
    monkeypatch.setattr(prefetch_module, "time", clock)
    timer = PhaseTimer(clock.now)

    def items():
        for k in range(2):
            clock.sleep(3.0)  # as a claim
            yield k

    batches = prefetch(lambda k: clock.sleep(5.0), items(), 0)
    with timer.phase("train"):
        for whole in (True, False):
            next(batches)
            hidden = waited_for_batch(timer, batches, whole=whole)
            assert (hidden.items, hidden.making) == (0.0, 0.0)
    assert named(timer) == {"train": 3.0, "preprocess": 13.0} and timer.hidden_seconds == {"preprocess": 0.0}


def test_a_resumed_run_goes_on_where_its_phases_were(clock):
    timer = PhaseTimer(clock.now)
    timer.hide("checkpoint", 3.0)
    timer.hide("checkpoint", -1.0)
    timer.hide("preprocess", -1.0)
    assert timer.hidden_seconds == {"checkpoint": 2.0, "preprocess": 0.0}
    timer.go_on({"startup": 2.0, "train": 10.0, "switch": 1.0}, {"checkpoint": 4.0}, 13.0)
    assert named(timer) == {"startup": 2.0, "train": 10.0, "switch": 1.0}
    assert timer.hidden_seconds["checkpoint"] == 6.0


def test_what_an_older_checkpoint_does_not_say_is_other(clock):
    timer = PhaseTimer(clock.now)
    timer.go_on({"read": 2.0, "compile": 3.0, "train": 10.0, "evaluate": 0.0, "checkpoint": 1.0}, {}, 20.0)
    assert named(timer) == {"read": 2.0, "compile": 3.0, "train": 10.0, "checkpoint": 1.0, "other": 4.0}


def test_what_was_summed_of_other_metrics_does_not_count():
    kept = {"loss_sum": 3.0, "correct": 2, "count": 3}
    assert Sums(Classification(), kept).values()["accuracy"] == 2 / 3
    assert Sums(Classification(("top5_accuracy",), 10), kept).totals == {}
