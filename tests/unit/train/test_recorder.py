"""What a run says of itself, in which words, and to whom."""

from __future__ import annotations

import logging
import threading

import jax
import numpy as np
import pytest
from helpers.clock import Clock

import jaxdist
from jaxdist.task import Classification
from jaxdist.train import measurements, metrics
from jaxdist.train.callbacks import Callbacks
from jaxdist.train.early_stopping import EarlyStopping
from jaxdist.train.health import Health
from jaxdist.train.measurements import Measurements
from jaxdist.train.metrics import PhaseTimer
from jaxdist.train.recorder import Recorder, own_numbers


class Rows:
    """In place of the run directory."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.summary = None

    def elapsed(self) -> float:
        return 0.0

    def write(self, kind, **row) -> None:
        self.rows.append({"kind": kind} | row)

    def summarise(self, summary) -> None:
        self.summary = summary


class Diary(jaxdist.Callback):
    def __init__(self) -> None:
        self.lines: list[tuple] = []

    def start(self, run) -> None:
        self.lines.append(("start",))

    def logged(self, run, row) -> None:
        self.lines.append(("logged", dict(row)))

    def evaluated(self, run, row) -> None:
        self.lines.append(("evaluated", row["updates"]))

    def saved(self, run, row) -> None:
        self.lines.append(("saved", row["updates"], threading.current_thread() is threading.main_thread()))

    def phase_changed(self, run, row) -> None:
        self.lines.append(("phase_changed", row["to"]))

    def end(self, run, summary) -> None:
        self.lines.append(("end", summary["updates"]))


@pytest.fixture
def run(monkeypatch):
    """(recorder, rows, diary) of a run of 24 examples an epoch."""
    clock = Clock()
    for module in (measurements, metrics):
        monkeypatch.setattr(module, "time", clock)
    rows, diary = Rows(), Diary()
    measured = Measurements(24, EarlyStopping(3), None, PhaseTimer(clock.monotonic()), Classification())
    health = Health("stop", lambda: "The newest checkpoint is 7.")
    return Recorder(measured, rows, Callbacks([diary], lambda: None), health, 24, Classification()), rows, diary


def take(measured: Measurements, start: int, *losses: float) -> None:
    for k, loss in enumerate(losses):
        row = {"loss_sum": 12 * loss, "correct": 6, "count": 12, "stop": 0.0}
        measured.add_step(row, start + 12 * k, start + 12 * k + 12, waits={}, timed=True)
    measured.take_late()


def test_a_run_that_goes_on_says_so(run, caplog):
    recorder, rows, diary = run
    recorder.start(recorder.where(0, 0), resumed=False)
    assert [row["event"] for row in rows.rows] == ["clock"] and rows.rows[0]["unix_time_of_0"] > 1e9
    with caplog.at_level(logging.INFO):
        recorder.start(recorder.where(3, 36), resumed=True)
    assert rows.rows[-1] == {"kind": "event", "event": "resumed", "updates": 3, "examples_seen": 36, "epoch": 1.5}
    assert "Resumed at update 3, epoch 1.50." in caplog.text and diary.lines == [("start",)] * 2


def test_a_train_row_has_the_place_the_measured_and_what_the_strategy_adds(run):
    recorder, rows, diary = run
    take(recorder.measured, 0, 2.0, 4.0)
    recorder.measured.timer.attribute("train", 2.0)
    recorder.train_row(recorder.where(2, 24), 0.05, {"bubble": 0.25})
    measured = {"loss": 3.0, "accuracy": 0.5, "images_per_second": 12.0, "step_ms": 1000.0}
    row = {"updates": 2, "examples_seen": 24, "epoch": 1.0} | measured | {"learning_rate": 0.05, "bubble": 0.25}
    assert rows.rows == [{"kind": "train"} | row] and diary.lines == [("logged", row)]
    assert recorder.last_row == {k: v for k, v in row.items() if k not in ("learning_rate", "bubble")}


def test_the_newest_evaluation_is_the_summary_s_whichever_comes_last(run, caplog):
    recorder, rows, diary = run
    with caplog.at_level(logging.INFO):
        for updates, loss in ((2, 0.75), (6, 0.25), (4, 0.5)):  # an evaluator's may come late
            recorder.evaluation(recorder.where(updates, 12 * updates) | {"loss": loss, "accuracy": 0.875})
    assert recorder.measured.last_evaluation == {"updates": 6, "loss": 0.25, "accuracy": 0.875}
    assert [row["updates"] for row in rows.rows if row["kind"] == "eval"] == [2, 6, 4]
    assert diary.lines == [("evaluated", 2), ("evaluated", 6), ("evaluated", 4)]
    assert "epoch 1.00: validation loss 0.7500, accuracy 87.50 %" in caplog.text
    assert recorder.summary([])["validation_loss"] == 0.25


def test_a_checkpoint_is_told_to_callbacks_on_the_training_thread(run):
    recorder, rows, diary = run
    writing = threading.Thread(target=lambda: recorder.saved(recorder.where(5, 60)))
    writing.start()
    writing.join()
    assert rows.rows == [{"kind": "event", "event": "saved", "updates": 5, "examples_seen": 60, "epoch": 2.5}]
    assert not diary.lines
    recorder.report_saved()
    recorder.report_saved()
    assert diary.lines == [("saved", 5, True)]


def test_callbacks_hear_of_a_new_phase_and_not_of_other_events(run):
    recorder, rows, diary = run
    recorder.event(recorder.where(3, 36), {"event": "worker_lost", "worker": 1})
    recorder.event(recorder.where(4, 48), {"event": "switched", "to": "allreduce"})
    assert [row["event"] for row in rows.rows] == ["worker_lost", "switched"]
    assert rows.rows[0]["worker"] == 1 and diary.lines == [("phase_changed", "allreduce")]


def test_at_the_end_nothing_is_left_untold(run):
    recorder, rows, diary = run
    recorder.saved(recorder.where(5, 60))
    recorder.end({"updates": 5})
    assert rows.summary == {"updates": 5} and diary.lines == [("saved", 5, True), ("end", 5)]


def test_the_last_epoch_is_a_whole_one_or_most_of_one(run):
    recorder, _, _ = run
    take(recorder.measured, 0, 8.0, 8.0, 2.0)
    assert recorder.summary([])["train_loss"] == 2.0  # half of the second epoch
    take(recorder.measured, 36, 2.0)
    recorder.measured.epoch.add({"loss_sum": 99.0, "correct": 0, "count": 11})
    assert recorder.summary([])["train_loss"] == 2.0  # less than half of the third


def test_numbers_of_workers_are_listed_and_a_lost_one_s_are_missing(run):
    recorder, _, _ = run
    found = recorder.summary([[100, 3, 40, 20, None, "xla"], None])
    assert found["peak_memory_bytes"] == [100, None] and found["programs_compiled"] == [3, None]
    assert found["param_bytes_per_process"] == [40, None] and found["optimizer_bytes_per_process"] == [20, None]
    assert found["ops_backend"] == ["xla", None]
    assert found["system"] is None  # nobody's monitor was on


def test_own_numbers_count_what_is_on_this_process_s_devices():
    one = jax.device_put(np.ones(6, np.float32), jax.devices()[0])
    arrays = {"params": {"a": one, "b": one}, "model_state": {"c": one}}
    peak, compiled, params, slots, spent, operations = own_numbers(arrays)
    assert operations == "xla"
    assert peak > 10**7 and compiled >= 0 and (params, slots) == (48, 0) and spent is None
