"""Exact metrics of a state over whole splits."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from ml_collections import ConfigDict

from jaxdist import data
from jaxdist.strategies.base import Strategy
from jaxdist.train.metrics import PhaseTimer, Sums, waited_for_batch
from jaxdist.train.setup import Examples

HOLDOUT = "holdout_"


def evaluation_row(
    strategy: Strategy, state: Any, examples: Examples, config: ConfigDict, timer: PhaseTimer | None = None
) -> dict[str, Any]:
    """Loss and metrics of the evaluation split, and of the holdout where there is one. Collective as `evaluate`."""
    row = evaluate(strategy, state, examples.evaluation, examples, config, timer).values()
    if examples.holdout is not None:
        held = evaluate(strategy, state, examples.holdout, examples, config, timer).values()
        row |= {f"{HOLDOUT}{name}": value for name, value in held.items()}
    return row


def evaluate(
    strategy: Strategy,
    state: Any,
    split: data.Split,
    examples: Examples,
    config: ConfigDict,
    timer: PhaseTimer | None = None,
) -> Sums:
    """Exact metrics over a split: the last batch is padded and masked. Collective where `eval_step` is.

    `timer`: is told of the waiting for batches.
    """
    multiple = strategy.eval_multiple
    batch_size = -(-(config.eval_batch_size or config.global_batch_size) // multiple) * multiple
    part, parts = strategy.own_part
    make = functools.partial(examples.loader.eval_batch, split, batch_size=batch_size, part=part, parts=parts)
    starts = range(0, len(split), batch_size)
    sums = Sums(strategy.task.objective, training=False)
    late: list[dict[str, Any]] = []
    with contextlib.closing(data.prefetch(make, starts, config.data.prefetch, config.data.workers)) as batches:
        for batch in batches:
            if timer is not None:
                waited_for_batch(timer, batches)
            late.append(strategy.eval_step(state, batch))
            if len(late) > 2:
                sums.add(late.pop(0))
    for metrics in late:
        sums.add(metrics)
    return sums
