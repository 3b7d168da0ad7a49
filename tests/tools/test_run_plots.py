"""`tools/run_plots.py`: what is drawn, apart from the drawing (`test_compare_runs.py` draws)."""

from __future__ import annotations

import pytest
from helpers.processes import ROOT
from run_plots import _at, _line, _mean, _smooth, draw
from run_reader import read_run


def test_lines_are_means_over_seeds_as_far_as_all_have_them():
    def row(epoch, accuracy):
        return {"epoch": epoch, "time": 2.0 * epoch, "accuracy": accuracy, "loss": 1.0}

    mean = _mean([[row(1, 0.5), row(2, 0.7)], [row(1, 0.7)]], "accuracy")
    assert len(mean) == 1 and mean[0]["accuracy"] == pytest.approx(0.6) and mean[0]["time"] == 2.0


def test_an_event_lies_on_its_line():
    rows = [{"time": 1.0, "loss": 4.0}, {"time": 3.0, "loss": 2.0}]
    assert _at(rows, {"time": 2.0}, "time", "loss") == (2.0, 3.0)
    assert _at(rows, {"time": 0.5}, "time", "loss") == (0.5, 4.0)
    assert _at([], {"time": 0.5}, "time", "loss") == (0.5, None)
    assert _smooth([1.0, 4.0, 1.0], width=3) == [2.5, 2.0, 2.5]


def test_training_accuracy_is_drawn_beside_validation_accuracy():
    run = read_run(ROOT / "experiments/results/strategy_switch_fmnist/switch_50/seed0")
    drawn = {axis.get_ylabel(): axis for axis in draw({run.group: [run]}).axes if axis.get_ylabel()}
    (line,) = drawn["training accuracy, %"].lines
    assert list(line.get_xdata()) == [row["epoch"] for row in run.train] and 80 < line.get_ydata()[-1] < 100
    assert "validation accuracy, %" in drawn and "CPU, % of all cores" in drawn


def test_rows_that_are_not_finite_are_left_out():
    rows = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": None}]
    assert _line(rows, "epoch", 1.0, "loss", 10.0) == ([1.0], [20.0])
