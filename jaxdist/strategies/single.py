"""One device, one process: the reference that every other strategy is held to."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from jaxdist.state import Position, TrainState, Tree
from jaxdist.strategies.base import Strategy
from jaxdist.task import Batch, Metrics, Task


class PlacedState(NamedTuple):
    """Arrays on devices, and the counts that the host keeps so that it never has to ask them."""

    arrays: Tree  # params, model_state, opt_state
    updates: int
    position: Position

    @classmethod
    def of(cls, arrays: Tree, canonical: TrainState) -> PlacedState:
        return cls(arrays, canonical.updates, canonical.position)

    def after(self, arrays: Tree, examples: int) -> PlacedState:
        """The state after one more update, with the gradients of `examples` examples."""
        return PlacedState(arrays, self.updates + 1, self.position.take(examples)[1])


class Single(Strategy):
    """Plain `jit` on the first local device."""

    def __init__(self, task: Task, *, global_batch_size: int) -> None:
        self.task = task
        self.is_chief = True
        self.examples_per_update = global_batch_size
        self._device = jax.local_devices()[0]
        self._update = jax.jit(partial(update, task), donate_argnums=0)
        self._evaluate = jax.jit(lambda arrays, batch: task.evaluate(arrays["params"], arrays["model_state"], batch))

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

    def progress(self, state: PlacedState) -> tuple[int, int]:
        return state.updates, state.position.seen

    def place(self, batch: Batch) -> Batch:
        return jax.device_put(batch, self._device)


def update(task: Task, arrays: Tree, batch: Batch, learning_rate: jax.Array) -> tuple[Tree, Metrics]:
    """One optimizer update with the gradient of the whole batch: (new arrays, metrics). Pure."""
    grads, stats, metrics = task.gradient(arrays["params"], arrays["model_state"], batch)
    params, opt_state = task.optimizer.update(grads, arrays["opt_state"], arrays["params"], learning_rate)
    return {"params": params, "model_state": stats, "opt_state": opt_state}, metrics
