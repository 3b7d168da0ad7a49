"""What is found, when, under which policy, and what is said."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from jaxdist.errors import Unhealthy
from jaxdist.train.health import Health

ROW = {"updates": 12, "examples_seen": 144}


def newest() -> str:
    return "The newest checkpoint is run/checkpoints/10."


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_step_an_evaluation_and_an_array_stop_the_run(loss):
    health = Health("stop", newest)
    with pytest.raises(Unhealthy, match=f"training loss is {loss} since example 96 .*checkpoints/10.*nonfinite=warn"):
        health.trained(ROW, (loss, 96))
    with pytest.raises(Unhealthy, match=f"evaluation of update 12 has loss {loss}.*checkpoints/10"):
        health.evaluated(ROW | {"loss": loss})
    with pytest.raises(Unhealthy, match=f"has holdout_loss {loss}"):
        health.evaluated(ROW | {"loss": 1.0, "holdout_loss": loss})
    with pytest.raises(Unhealthy, match="params/a/kernel has 1 of 6 numbers that are not finite"):
        health.array("params/a/kernel", np.array([[0.0, 1, 2], [3, loss, 5]], np.float32))


def test_what_is_finite_is_passed():
    health = Health("stop", newest)
    health.trained(ROW, None)
    health.evaluated(ROW | {"loss": 1e300})
    for array in (np.ones(3), np.int32(7), np.zeros((0, 2)), np.array([2**63 - 1])):
        health.array("a", np.asarray(array))
    health.ended(1)


def words(caplog) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return said


def test_what_is_left_after_skipping_must_be_finite(caplog):
    health = Health("skip", newest)
    with caplog.at_level(logging.WARNING):
        health.trained(ROW | {"updates_skipped": 2, "loss": 1.0}, None)
        health.trained(ROW | {"updates_skipped": 1, "loss": 1.0}, None)
    (said,) = words(caplog)
    assert said.startswith("2 updates in the interval that ends with update 12 were left out")
    with pytest.raises(Unhealthy):
        health.array("params/a/kernel", np.array([np.nan]))


def test_a_loss_that_leaps_is_said(caplog):
    health = Health("stop", newest)
    with caplog.at_level(logging.WARNING):
        for updates, loss in enumerate([2.3, 2.0, 1.5, 1.2, 1.0, 1.1, 0.9, 2.0]):
            health.trained({"updates": updates, "loss": loss}, None)
        assert not caplog.records
        health.trained({"updates": 8, "loss": 5.0}, None)
    assert "leapt from about 1.35 to 5 by update 8" in words(caplog)[0]


def test_training_that_is_dead_is_said(caplog):
    health = Health("stop", newest, chance=0.1)
    with caplog.at_level(logging.WARNING):
        health.evaluated({"updates": 5, "loss": 2.3, "accuracy": 0.1, "epoch": 0.5})
        health.evaluated({"updates": 20, "loss": 2.3, "accuracy": 0.13, "epoch": 2.0})
        assert not caplog.records
        health.evaluated({"updates": 20, "loss": 2.3, "accuracy": 0.1, "epoch": 2.0})
        assert "10.0 %, that of guessing among 10 classes" in words(caplog)[0]
        for updates, value in ((4, 1.0), (8, 1.0), (12, 2.0), (12, 2.0)):
            health.array("params/a/kernel", np.full(3, value))
            health.array("model_state/a/mean", np.full(3, updates))
            health.saved(updates)
            said = words(caplog)
            assert bool(said) == (updates == 8), said


def test_a_warning_is_given_once_for_each_kind(caplog):
    health = Health("warn", newest)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            health.trained(ROW, (float("nan"), 96))
            health.evaluated(ROW | {"loss": float("nan")})
            health.array("a", np.array([np.nan]))
    assert len(caplog.records) == 3
    with pytest.raises(Unhealthy, match="has made no update"):  # whatever the policy
        health.ended(0)
