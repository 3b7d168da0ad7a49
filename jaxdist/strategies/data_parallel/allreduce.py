"""Synchronous data parallelism: every replica the same state, gradients averaged each update.

Three spellings of one algorithm, over all devices of all processes on one mesh axis, `data`:

    shard_map   each device: own gradient -> ONE fused all-reduce (gradients, statistics, metrics) -> same update
    pmap        the same body under `jax.pmap`, for users who have such code
    jit         the global program (`ModelParallel` without rules): BatchNorm sees the global batch
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.comm.reducer import Reducer
from jaxdist.cost.collectives import collectives, totals
from jaxdist.parallel.mesh import DATA, shares
from jaxdist.state import TrainState, Tree
from jaxdist.strategies.base import Strategy
from jaxdist.strategies.placed_state import PlacedState
from jaxdist.strategies.report import Report
from jaxdist.task import Batch, Metrics, Task
from jaxdist.task.update import unless_not_finite


class AllReduceReport(Report):
    """Says which collectives a step has."""

    def __init__(self, strategy: AllReduce) -> None:
        self._strategy = strategy

    def summary(self) -> dict[str, Any]:
        return {"collectives_per_step": self._strategy.collectives()}


class AllReduce(Strategy):
    """Data parallelism by `shard_map`; the base of the other spellings and of sharded states.

    Args:
      global_batch_size: divisible by the size of the mesh's data axis.
      process_id, num_processes: of this process; all have equally many devices.
      fusion_megabytes: largest fused buffer; 0 = one collective per array.
      sync_batch_norm: BatchNorm statistics over the global batch instead of each replica's own.
      sizes: {axis: devices} of the mesh; None: all devices on the data axis.
    """

    def __init__(
        self,
        task: Task,
        *,
        global_batch_size: int,
        process_id: int = 0,
        num_processes: int = 1,
        fusion_megabytes: float = 64.0,
        sync_batch_norm: bool = False,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.task = task
        self.is_chief = process_id == 0
        self.examples_per_update = global_batch_size
        devices = jax.devices()
        sizes = sizes or {DATA: len(devices)}
        self.own_part = shares(num_processes, sizes)[process_id]
        self.eval_multiple = sizes[DATA]
        self._reducer = Reducer(DATA, sizes[DATA], fusion_megabytes)
        self.report = AllReduceReport(self)
        self._batch_axis = DATA if sync_batch_norm else None
        self._mesh = Mesh(
            np.array(devices).reshape(tuple(sizes.values())), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
        )
        self._replicated = NamedSharding(self._mesh, P())
        self._by_example = NamedSharding(self._mesh, P(DATA))
        # Both values of the flag that asks all to stop wait on the devices: no transfer per step.
        self._stop = {asked: self._flags(asked) for asked in (False, True)}
        self._step: Any = None  # set by `_compile`
        self._evaluate: Any = None
        self._program: Any = None  # `_step`, compiled for what it is called with
        self._compile()

    def _flags(self, asked: bool) -> jax.Array:
        """A number for each device, equal on all of this process's."""
        return self.place({"stop": np.full(len(jax.local_devices()), asked, self.task.dtype)})["stop"]

    def _compile(self) -> None:
        # check_vma=False: the body says itself what is summed where, and a user's model needs no varying-axes casts.
        spread = partial(jax.shard_map, mesh=self._mesh, check_vma=False)
        state = self._state_specs()
        step = spread(self._replica_step, in_specs=(state, P(DATA), P(), P(DATA)), out_specs=(state, P()))
        evaluate = spread(self._replica_evaluate, in_specs=(state, P(DATA)), out_specs=P())
        self._step = jax.jit(step, donate_argnums=0)
        self._evaluate = jax.jit(evaluate)

    def _state_specs(self) -> Any:
        """How the state's arrays lie on the mesh: a prefix of their tree."""
        return P()

    def _replica_step(
        self, arrays: Tree, batch: Batch, learning_rate: jax.Array, stop: jax.Array
    ) -> tuple[Tree, Metrics]:
        """One device's part of an update. Everything that crosses the network goes in one fused sum."""
        grads, stats, metrics = self.task.gradient(arrays["params"], arrays["model_state"], batch, self._batch_axis)
        grads, stats, metrics = self._reducer.step(grads, stats, metrics, stop)
        new = self.task.updated(arrays, grads, stats, learning_rate)
        return unless_not_finite(self.task, new, arrays, grads, metrics)

    def _replica_evaluate(self, arrays: Tree, batch: Batch) -> Metrics:
        return self._reducer.metrics(self.task.evaluate_state(arrays, batch))

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> PlacedState:
        return PlacedState.of(self._placed(canonical), canonical)

    def _placed(self, canonical: TrainState) -> Tree:
        return jax.tree.map(self._put_everywhere, canonical.arrays())

    def _put_everywhere(self, leaf: Any) -> jax.Array:
        value = np.array(leaf)  # a copy: the step donates it
        return jax.make_array_from_callback(value.shape, self._replicated, lambda index: value[index])

    def _put_share(self, value: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(self._by_example, value)

    def export_state(self, state: PlacedState) -> TrainState:
        return TrainState.of(jax.tree.map(self._fetch, state.arrays), state.updates, state.position)

    def _fetch(self, leaf: jax.Array) -> np.ndarray:
        return np.array(leaf.addressable_data(0))  # a copy: the next step donates it

    def prepare(self, state: PlacedState, batch: Batch) -> jax.stages.Compiled:
        """The program of a training step, compiled for such a state and placed batch. Runs nothing."""
        rate = np.zeros((), self.task.dtype)
        self._program = self._step.lower(state.arrays, batch, rate, self._stop[False]).compile()
        return self._program

    def train_step(self, state: PlacedState, batch: Batch, stop: bool = False) -> tuple[PlacedState, Metrics]:
        program = self._program or self.prepare(state, batch)
        rate = np.asarray(self.task.learning_rate(state.position.seen), self.task.dtype)
        arrays, metrics = program(state.arrays, batch, rate, self._stop[stop])
        return state.after(arrays, self.examples_per_update), metrics

    def eval_step(self, state: PlacedState, batch: Batch) -> Metrics:
        return self._evaluate(state.arrays, self.place(batch))

    def collectives(self) -> dict[str, dict[str, int]]:
        """{kind: {count, bytes, bytes_sent}} of one training step on one device, from the program; {} before the first
        step. `bytes_sent` as rings send them."""
        if self._program is None:
            return {}
        return totals(collectives(self._program.as_text(), self._mesh.size))

    def place(self, batch: Batch) -> Batch:
        return jax.tree.map(self._put_share, batch)
