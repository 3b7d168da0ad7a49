"""A strategy in one file, as somebody would add it: `allreduce`, but the optimizer is applied every second step.

    step 1   gradients averaged over the replicas, added to what is gathered
    step 2   the same, then one update with the mean of what is gathered           strategy.every = 2

What is gathered is the strategy's own state: checkpoints keep it as `strategy_state`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdist.knobs import Knob, above_zero
from jaxdist.state import TrainState, Tree
from jaxdist.strategies.batch_split import check_divisible
from jaxdist.strategies.data_parallel.allreduce import AllReduce
from jaxdist.strategies.placed_state import PlacedState
from jaxdist.strategies.spec import BuildContext, Resources, Settings, StrategySpec
from jaxdist.task import Batch, Metrics, Task

NAME = "every_second"


class EverySecond(AllReduce):
    """Args:
    every: steps of one update.
    """

    def __init__(self, task: Task, *, every: int, **options: Any) -> None:
        self._every = every
        super().__init__(task, **options)

    def _replica_step(
        self, arrays: Tree, batch: Batch, learning_rate: jax.Array, stop: jax.Array
    ) -> tuple[Tree, Metrics]:
        grads, stats, metrics = self.task.gradient(arrays["params"], arrays["model_state"], batch)
        grads, stats, metrics = self._reducer.step(grads, stats, metrics, stop)
        steps = arrays["steps"] + 1
        gathered = jax.tree.map(jnp.add, arrays["gathered"], grads)
        mean = jax.tree.map(lambda leaf: leaf / self._every, gathered)
        updated = self.task.optimizer.update(mean, arrays["opt_state"], arrays["params"], learning_rate)
        due = steps % self._every == 0
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(due, new, old), updated, (arrays["params"], arrays["opt_state"])
        )
        gathered = jax.tree.map(lambda leaf: jnp.where(due, 0, leaf), gathered)
        new = {"params": params, "model_state": stats, "opt_state": opt_state}
        return new | {"gathered": gathered, "steps": steps}, metrics

    def _placed(self, canonical: TrainState) -> Tree:
        own = canonical.strategy_state.get(NAME)
        if own is None:
            zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), canonical.params)
            own = {"gathered": zeros, "steps": np.zeros((), np.int32)}
        return super()._placed(canonical) | jax.tree.map(self._put_everywhere, own)

    def export_state(self, state: PlacedState) -> TrainState:
        own = {name: jax.tree.map(self._fetch, state.arrays[name]) for name in ("gathered", "steps")}
        return dataclasses.replace(super().export_state(state), strategy_state={NAME: own})

    def train_step(self, state: PlacedState, batch: Batch, stop: bool = False) -> tuple[PlacedState, Metrics]:
        new, metrics = super().train_step(state, batch, stop)
        due = new.position.seen // self.examples_per_update % self._every == 0
        return new._replace(updates=state.updates + due), metrics


def check(settings: Settings, task: Task, resources: Resources) -> None:
    check_divisible(resources.global_batch_size, resources.num_devices, f"the {resources.num_devices} devices")


def build(settings: Settings, task: Task, context: BuildContext) -> EverySecond:
    return EverySecond(
        task,
        every=settings["every"],
        global_batch_size=context.global_batch_size,
        process_id=context.process_id,
        num_processes=context.num_processes,
    )


SPEC = StrategySpec(
    name=NAME, knobs=(Knob("strategy.every", 2, "steps of one update", above_zero),), check=check, build=build
)
