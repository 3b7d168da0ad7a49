"""Exact metrics of a state over whole splits."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from jaxdist import data
from jaxdist.strategies.base import Strategy
from jaxdist.train.metrics import Sums
from jaxdist.train.setup import Examples


def evaluation_row(strategy: Strategy, state: Any, examples: Examples, config: ConfigDict) -> dict[str, float]:
    """loss and accuracy of the evaluation split, and of the holdout where there is one. Collective as `evaluate`."""
    reported = evaluate(strategy, state, examples.evaluation, examples, config)
    row = {"loss": reported.loss, "accuracy": reported.accuracy}
    if examples.holdout is not None:
        held = evaluate(strategy, state, examples.holdout, examples, config)
        row |= {"holdout_loss": held.loss, "holdout_accuracy": held.accuracy}
    return row


def evaluate(strategy: Strategy, state: Any, split: data.Split, examples: Examples, config: ConfigDict) -> Sums:
    """Exact metrics over a split: the last batch is padded and masked. Collective where `eval_step` is."""
    multiple = strategy.eval_multiple
    batch_size = -(-(config.eval_batch_size or config.global_batch_size) // multiple) * multiple
    batches = examples.loader.eval_batches(split, batch_size, *strategy.own_part)
    sums = Sums()
    late: list[dict[str, Any]] = []
    for batch in data.prefetch(lambda b: b, batches, config.data.prefetch):
        late.append(strategy.eval_step(state, batch))
        if len(late) > 2:
            sums.add(late.pop(0))
    for metrics in late:
        sums.add(metrics)
    return sums
