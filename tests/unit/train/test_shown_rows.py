"""Rows as metrics: their names, and no harm when they cannot be shown."""

from __future__ import annotations

import types

from jaxdist.train.shown_rows import ShownRows

RUN = types.SimpleNamespace(updates=3, examples_seen=36, epoch=1.5, metrics=("loss", "accuracy"))


def test_rows_are_shown_under_their_names():
    shown = {}
    rows = ShownRows(shown.update)
    rows.start(RUN)
    rows.logged(RUN, {"updates": 6, "loss": 0.5, "accuracy": 0.75, "step_ms": 20.0, "staleness_mean": 1.5})
    rows.evaluated(
        RUN, {"updates": 2, "loss": 0.25, "accuracy": 0.875, "holdout_loss": 0.125, "confusion_matrix": [[1]]}
    )
    assert shown == {
        "updates": 6, "examples_seen": 36, "epoch": 1.5, "train_loss": 0.5, "train_accuracy": 0.75, "step_ms": 20.0,
        "staleness_mean": 1.5, "validation_loss": 0.25, "validation_accuracy": 0.875, "holdout_loss": 0.125,
    }  # fmt: skip


def test_a_failure_is_said_once_and_ends_nothing(caplog):
    def fails(_):
        raise RuntimeError("no room")

    rows = ShownRows(fails)
    rows.start(RUN)
    rows.logged(RUN, {"loss": 0.5})
    said = [record.getMessage() for record in caplog.records]
    assert said == ["The metrics are shown no more (training goes on): RuntimeError: no room"]
