"""Metrics of a split are exact: each example once, however batches and parts are cut."""

from __future__ import annotations

import types

import numpy as np
import pytest
from helpers import tiny_config

from jaxdist.task import Classification
from jaxdist.train import setup
from jaxdist.train.evaluate import evaluate, evaluation_row
from jaxdist.train.metrics import PhaseTimer


class Counting:
    """A strategy whose model calls everything a zero, with a loss equal to the label."""

    def __init__(self, eval_multiple: int = 1, own_part: tuple[int, int] = (0, 1)) -> None:
        self.eval_multiple, self.own_part = eval_multiple, own_part
        self.sizes: list[int] = []
        self.task = types.SimpleNamespace(objective=Classification())

    def eval_step(self, state, batch):
        assert state == "the state" and "position" not in batch
        label, mask = batch["target"], batch["mask"]
        self.sizes.append(len(label))
        return {"loss_sum": (label * mask).sum(), "correct": ((label == 0) * mask).sum(), "count": mask.sum()}


@pytest.fixture(scope="module")
def examples() -> setup.Examples:
    config = tiny_config.get_config()
    config.data.holdout_examples = 17
    return setup.load_examples(config)


def tiny(size: int):
    prepared = types.SimpleNamespace(prefetch=2, workers=0)
    return types.SimpleNamespace(eval_batch_size=size, global_batch_size=12, data=prepared)


@pytest.mark.parametrize(
    ("eval_batch_size", "multiple", "sizes"),
    [(0, 1, [12] * 5), (50, 1, [50]), (64, 1, [64]), (10, 1, [10] * 5), (10, 8, [16] * 4), (1, 1, [1] * 50)],
)
def test_the_last_batch_is_padded_and_what_is_padded_does_not_count(examples, eval_batch_size, multiple, sizes):
    strategy = Counting(multiple)
    sums = evaluate(strategy, "the state", examples.evaluation, examples, tiny(eval_batch_size))
    labels = examples.evaluation.target
    assert strategy.sizes == sizes and sums.count == len(labels) == 50
    assert sums.values() == pytest.approx({"loss": labels.mean(), "accuracy": (labels == 0).mean()})


def test_parts_of_processes_make_the_whole(examples):
    found = [evaluate(Counting(4, (part, 4)), "the state", examples.evaluation, examples, tiny(0)) for part in range(4)]
    assert sum(sums.count for sums in found) == 50
    assert sum(sums.totals["loss_sum"] for sums in found) == examples.evaluation.target.sum()


def test_the_holdout_has_numbers_of_its_own(examples):
    row = evaluation_row(Counting(), "the state", examples, tiny(0))
    labels, held = examples.evaluation.target, examples.holdout.target
    assert len(held) == 17 and not np.array_equal(labels[:17], held)
    assert row == {
        "loss": pytest.approx(labels.mean()),
        "accuracy": pytest.approx((labels == 0).mean()),
        "holdout_loss": pytest.approx(held.mean()),
        "holdout_accuracy": pytest.approx((held == 0).mean()),
    }


def test_waiting_for_batches_is_preprocessing(examples):
    timer = PhaseTimer()
    with timer.phase("evaluate"):
        config = tiny(0)
        config.data.prefetch = 0
        evaluate(Counting(), "the state", examples.evaluation, examples, config, timer)
    assert timer.seconds["preprocess"] > 0 and timer.seconds["evaluate"] > 0
    assert timer.hidden_seconds["preprocess"] == pytest.approx(0.0, abs=1e-9)  # nothing was made ahead
