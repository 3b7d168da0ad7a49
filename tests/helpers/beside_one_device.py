"""A data set of trees, and a run over it beside the single-device run: the same state, and what else is to be seen."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from helpers.in_process import BATCH, only, strategy_on
from helpers.reference import assert_same, train_reference

from jaxdist import data


class Seen(NamedTuple):
    """Of a run whose state is that of the single-device run.

    `batches` that it was trained on; `metrics` of the last step; `sums` of an evaluation in batches of 8, and what is
    `wanted`: the single-device run's, in one batch; `row`: of the strategy's report. The strategy is closed.
    """

    strategy: Any
    batches: list[Any]
    metrics: Any
    sums: dict[str, Any]
    wanted: dict[str, Any]
    row: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Examples:
    """`dataset`: with 20 examples to evaluate."""

    dataset: data.Dataset

    @cached_property
    def loader(self) -> data.Loader:
        means, scales = data.mean_of(self.dataset.train), data.scales_of(self.dataset)
        return data.Loader(means=means, scales=scales, seed=3, dtype=np.float64)

    def train(self, task, updates: int, devices: int, replicas: int, settings: dict[str, Any]) -> Seen:
        """So many updates on so many devices, and an evaluation."""
        train, loader = self.dataset.train, self.loader
        stream = data.ExampleStream(len(train), 3)
        batches = [loader.train_batch(train, stream, range(k * BATCH, (k + 1) * BATCH)) for k in range(updates)]
        expected = train_reference(task, batches, replicas=replicas)
        strategy = strategy_on(devices, task, BATCH, **settings)
        with only(devices):
            state = strategy.import_state(task.init())
            for batch in batches:
                state, metrics = strategy.train_step(state, strategy.place(batch))
            found = [strategy.eval_step(state, b) for b in loader.eval_batches(self.dataset.evaluation, 8, 0, 1)]
            sums = {key: sum(np.asarray(one[key], np.float64) for one in found) for key in found[0]}
            assert_same(strategy.export_state(state), expected, 1e-9)
            row = strategy.report.row()
        strategy.close()
        (whole,) = loader.eval_batches(self.dataset.evaluation, 20, 0, 1)
        final = expected.in_memory()
        wanted = task.evaluate(final.params, final.model_state, whole)
        return Seen(strategy, batches, metrics, sums, wanted, row)
