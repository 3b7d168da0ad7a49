"""One device, one process: the reference that every other strategy is held to."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np

from jaxdist.errors import UsageError
from jaxdist.state import TrainState
from jaxdist.strategies.base import Strategy
from jaxdist.strategies.batch_split import check_microbatches
from jaxdist.strategies.placed_state import PlacedState
from jaxdist.strategies.spec import BuildContext, Resources, Settings
from jaxdist.task import Batch, Metrics, Task
from jaxdist.task.update import update


def check(settings: Settings, task: Task, resources: Resources) -> None:
    """Refuses what cannot be.

    Raises:
      UsageError: with the remedy.
    """
    if resources.num_processes > 1:
        raise UsageError(
            f"strategy.name='single' is for one process, but there are {resources.num_processes}: use 'allreduce'."
        )
    check_microbatches(settings, task, resources.global_batch_size, 1)


def build(settings: Settings, task: Task, context: BuildContext) -> Single:
    """The strategy."""
    task = dataclasses.replace(task, microbatches=settings["accumulate"])
    return Single(task, global_batch_size=context.global_batch_size)


class Single(Strategy):
    """Plain `jit` on the first local device."""

    def __init__(self, task: Task, *, global_batch_size: int) -> None:
        self.task = task
        self.is_chief = True
        self.examples_per_update = global_batch_size
        self._device = jax.local_devices()[0]
        self._update = jax.jit(partial(update, task), donate_argnums=0)
        self._evaluate = jax.jit(lambda arrays, batch: task.evaluate_state(arrays, batch))

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> PlacedState:
        put = lambda leaf: jax.device_put(np.array(leaf), self._device)  # noqa: E731 - a copy: the step donates it
        return PlacedState.of(jax.tree.map(put, canonical.arrays()), canonical)

    def export_state(self, state: PlacedState) -> TrainState:
        return TrainState.of(jax.tree.map(np.array, state.arrays), state.updates, state.position)

    def train_step(self, state: PlacedState, batch: Batch, stop: bool = False) -> tuple[PlacedState, Metrics]:
        rate = np.asarray(self.task.learning_rate(state.position.seen), self.task.dtype)
        arrays, metrics = self._update(state.arrays, batch, rate)
        metrics["stop"] = stop
        return state.after(arrays, self.examples_per_update), metrics

    def eval_step(self, state: PlacedState, batch: Batch) -> Metrics:
        return self._evaluate(state.arrays, batch)

    def place(self, batch: Batch) -> Batch:
        return jax.device_put(batch, self._device)
