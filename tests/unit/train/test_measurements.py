"""What is measured of a run: sums of epochs and of windows, one step late, and what a checkpoint keeps of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from helpers.clock import Clock

from jaxdist.data.prefetch import Work
from jaxdist.strategies.report import Wait
from jaxdist.task import Classification
from jaxdist.train import measurements, metrics
from jaxdist.train.early_stopping import EarlyStopping
from jaxdist.train.measurements import Measurements
from jaxdist.train.metrics import PhaseTimer


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    for module in (measurements, metrics):
        monkeypatch.setattr(module, "time", clock)
    return clock


def begin(clock: Clock, before=None) -> Measurements:
    return Measurements(24, EarlyStopping(3), before, PhaseTimer(clock.monotonic()), Classification())


def step(measured: Measurements, before: int, loss: float = 1.0, stop: float = 0.0, **more) -> bool:
    """Twelve examples from `before` on, half of them correct."""
    row = {"loss_sum": 12 * loss, "correct": 6, "count": 12, "stop": stop}
    return measured.add_step(row | more, before, before + 12, waits={"server": Wait(0.25, 0.5)}, timed=True)


def test_a_step_counts_when_the_next_is_there(clock):
    measured = begin(clock)
    step(measured, 0)
    assert measured.window.count == 0 and measured.has_late
    step(measured, 12)
    assert measured.window.count == 12
    assert not measured.take_late() and measured.window.count == 24 and not measured.has_late


def test_a_step_that_says_stop_is_heard_one_step_late(clock):
    measured = begin(clock)
    assert not step(measured, 0, stop=1.0)
    assert step(measured, 12)
    assert not measured.take_late()


def test_an_epoch_ends_with_the_step_that_crosses_its_end(clock):
    measured = begin(clock)
    for k, loss in enumerate((1.0, 3.0, 5.0)):
        step(measured, 12 * k, loss)
    measured.take_late()
    assert (measured.last_epoch.loss, measured.last_epoch.count) == (2.0, 24)
    assert (measured.epoch.loss, measured.epoch.count) == (5.0, 12)


def test_a_row_is_of_its_window_alone(clock):
    measured = begin(clock)
    with measured.timer.phase("train"):
        clock.sleep(5.0)
    measured.window_row()
    with measured.timer.phase("train"):
        clock.sleep(2.0)
    step(measured, 0, loss=4.0)
    step(measured, 12, loss=2.0, elsewhere=4)  # others trained on four of these while this process was away
    measured.take_late()
    row = {"loss": 3.0, "accuracy": 0.5, "images_per_second": 10.0, "step_ms": 1000.0, "server_wait_ms": 250.0}
    assert measured.window_row() == row
    assert measured.wait_seconds == {"server": 0.5} and measured.timer.hidden_seconds == {"server": 1.0}
    assert all(np.isnan(value) for value in measured.window_row().values())  # no average of nothing is 0
    assert measured.timed_examples == 20


def test_the_step_that_compiles_is_not_timed(clock):
    measured = begin(clock)
    row = {"loss_sum": 12.0, "correct": 6, "count": 12, "stop": 0.0}
    measured.add_step(row, 0, 12, waits={"server": Wait(9.0)}, timed=False)
    measured.take_late()
    assert measured.window_row() == {"loss": 1.0, "accuracy": 0.5} and measured.timed_examples == 0
    assert measured.wait_seconds == {}


class Batches(Iterator[str]):
    """Each is there after a second for its item, three of making, and two more of making on another thread."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.waited = clock, Work()

    def __next__(self) -> str:
        self.clock.sleep(4.0)
        self.waited = Work(1.0, 3.0)
        return "batch"

    def take_work(self) -> Work:
        return Work(1.0, 5.0)


@pytest.mark.parametrize(
    ("waits_for", "seconds", "waits", "hidden"),
    [
        ("", {"train": 1.0, "preprocess": 4.0}, {"data": 4.0}, {"preprocess": 2.0}),
        ("server", {"train": 2.0, "preprocess": 3.0}, {"server": 1.0, "data": 3.0}, {"preprocess": 2.0}),
    ],
)
def test_a_batch_is_waited_for_outside_the_phase_and_inside_the_step(clock, waits_for, seconds, waits, hidden):
    measured = begin(clock)
    with measured.timer.phase("train"):
        assert measured.next_batch(Batches(clock), waits_for, timed=True) == "batch"
        clock.sleep(1.0)
        measured.add_step({"loss_sum": 1.0, "correct": 1, "count": 1, "stop": 0.0}, 0, 12, waits={}, timed=True)
        assert {name: s for name, s in measured.timer.seconds.items() if s} == seconds
        measured.take_late()
        row = measured.window_row()
    assert measured.wait_seconds == waits and measured.timer.hidden_seconds == hidden
    assert {f"{name}_wait_ms": 1000 * s for name, s in waits.items()}.items() <= row.items()
    assert row["step_ms"] == 1000 * (1.0 + sum(waits.values()))  # with what it waited for
    assert measured.training_seconds == row["step_ms"] / 1000


def test_a_resumed_run_goes_on_where_its_checkpoint_was(clock):
    measured = begin(clock)
    with measured.timer.phase("train"):
        clock.sleep(7.0)
    for k, loss in enumerate((1.0, 3.0, 5.0)):
        step(measured, 12 * k, loss)
    measured.take_late()
    measured.last_evaluation = {"updates": 2, "loss": 0.5}
    for loss in (0.5, 0.6):
        measured.early_stopping.should_stop(loss)
    kept = json.loads(json.dumps(measured.to_json()))
    assert kept["elapsed"] == 7.0
    clock.sleep(100.0)  # nobody trained
    again = begin(clock, kept)
    assert again.to_json() == kept
    assert again.early_stopping.patience == 3 and again.early_stopping.evaluations_since_best == 1
    other = Measurements(
        24, EarlyStopping(3, higher_is_better=True, metric="accuracy"), kept, PhaseTimer(), Classification()
    )
    assert other.early_stopping.best == float("inf")  # that of a loss says nothing of an accuracy
    step(again, 36, loss=7.0)
    again.take_late()
    assert again.last_epoch.loss == 6.0 and again.window.loss == 4.0


def test_a_checkpoint_of_an_earlier_version_goes_on(clock):
    kept = begin(clock).to_json()
    older = {k: v for k, v in kept.items() if k not in ("hidden_seconds", "wait_seconds")}
    seconds = {"read": 1.0, "compile": 2.0, "train": 4.0, "evaluate": 0.0, "checkpoint": 0.5}
    again = begin(clock, older | {"phase_seconds": seconds, "elapsed": 8.0})
    clock.sleep(1.0)
    found = again.timer.seconds
    assert found["startup"] == 1.0 and found["other"] == 0.5 and sum(found.values()) == again.elapsed() == 9.0
    assert again.wait_seconds == {} and again.training_seconds == 4.0


def test_the_first_step_of_a_window_that_is_not_finite_is_kept():
    measured = Measurements(24, EarlyStopping(0), None, PhaseTimer(), Classification())
    for k, loss in enumerate((1.0, float("inf"), float("nan"), 2.0)):
        step(measured, 12 * k, loss=loss)
    measured.take_late()
    assert measured.not_finite == (float("inf"), 24)
    measured.window_row()
    assert measured.not_finite is None
