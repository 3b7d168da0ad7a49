"""Synchronous data parallelism: every replica the same state, gradients averaged each update.

Three spellings of one algorithm, over all devices of all processes on one mesh axis, `data`:

    shard_map   each device: own gradient -> ONE fused all-reduce (gradients, statistics, metrics) -> same update
    pmap        the same body under `jax.pmap`, for users who have such code
    jit         the global program; XLA inserts the collectives. BatchNorm sees the global batch, so every layer
                communicates, forward and backward: ruinous on a slow network
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.parallel.fused import fused_psum
from jaxdist.position import Position
from jaxdist.strategies.base import Strategy
from jaxdist.strategies.single import PlacedState, update
from jaxdist.task import Batch, Metrics, Task, TrainState, Tree

AXIS = "data"


class AllReduce(Strategy):
    """Data parallelism by `shard_map`; the base of the other spellings.

    Args:
      global_batch_size: divisible by the number of devices.
      process_id, num_processes: of this process; all have equally many devices.
      fusion_megabytes: largest fused buffer; 0 = one collective per array.
      sync_batch_norm: BatchNorm statistics over the global batch instead of each replica's own.
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
    ) -> None:
        self.task = task
        self.is_chief = process_id == 0
        self.examples_per_update = global_batch_size
        self.eval_part = (process_id, num_processes)
        self._num_devices = len(jax.devices())
        self.eval_multiple = self._num_devices
        self._fusion_megabytes = fusion_megabytes
        self._batch_axis = AXIS if sync_batch_norm else None
        self._mesh = jax.make_mesh((self._num_devices,), (AXIS,), axis_types=(AxisType.Auto,))
        self._replicated = NamedSharding(self._mesh, P())
        self._by_example = NamedSharding(self._mesh, P(AXIS))
        local = len(jax.local_devices())
        # Both values of the flag that asks all to stop wait on the devices: no transfer per step.
        self._stop = {said: self.place({"stop": np.full(local, said, task.dtype)})["stop"] for said in (False, True)}
        self._compile()

    def _compile(self) -> None:
        # check_vma=False: the body says itself what is summed where, and a user's model needs no varying-axes casts.
        spread = partial(jax.shard_map, mesh=self._mesh, check_vma=False)
        step = spread(self._replica_step, in_specs=(P(), P(AXIS), P(), P(AXIS)), out_specs=P())
        evaluate = spread(self._replica_evaluate, in_specs=(P(), P(AXIS)), out_specs=P())
        self._step = jax.jit(step, donate_argnums=0)
        self._evaluate = jax.jit(evaluate)

    def _replica_step(
        self, arrays: Tree, batch: Batch, learning_rate: jax.Array, stop: jax.Array
    ) -> tuple[Tree, Metrics]:
        """One device's part of an update. Everything that crosses the network goes in one fused sum."""
        grads, stats, metrics = self.task.gradient(arrays["params"], arrays["model_state"], batch, self._batch_axis)
        metrics["stop"] = stop[0].astype(metrics["count"].dtype)
        grads, stats, metrics = fused_psum((grads, stats, metrics), AXIS, self._fusion_megabytes)
        grads, stats = jax.tree.map(lambda leaf: leaf / self._num_devices, (grads, stats))
        params, opt_state = self.task.optimizer.update(grads, arrays["opt_state"], arrays["params"], learning_rate)
        return {"params": params, "model_state": stats, "opt_state": opt_state}, metrics

    def _replica_evaluate(self, arrays: Tree, batch: Batch) -> Metrics:
        return fused_psum(self.task.evaluate(arrays["params"], arrays["model_state"], batch), AXIS, 1.0)

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> PlacedState:
        return PlacedState.of(jax.tree.map(self._put_everywhere, canonical.arrays()), canonical)

    def _put_everywhere(self, leaf: Any) -> jax.Array:
        value = np.array(leaf)  # a copy: the step donates it
        return jax.make_array_from_callback(value.shape, self._replicated, lambda index: value[index])

    def _put_share(self, value: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(self._by_example, value)

    def export_state(self, state: PlacedState) -> TrainState:
        return TrainState.of(jax.tree.map(self._fetch, state.arrays), state.updates, state.position)

    def _fetch(self, leaf: jax.Array) -> np.ndarray:
        return np.array(leaf.addressable_data(0))  # a copy: the next step donates it

    def train_step(self, state: PlacedState, batch: Batch, stop: bool = False) -> tuple[PlacedState, Metrics]:
        rate = np.asarray(self.task.learning_rate(state.position.seen), self.task.dtype)
        arrays, metrics = self._step(state.arrays, batch, rate, self._stop[stop])
        return state.after(arrays, self.examples_per_update), metrics

    def eval_step(self, state: PlacedState, batch: Batch) -> Metrics:
        return self._evaluate(state.arrays, self.place(batch))

    def progress(self, state: PlacedState) -> tuple[int, int]:
        return state.updates, state.position.seen

    def positions(self, start: Position, total_examples: int) -> Iterator[np.ndarray]:
        part, parts = self.eval_part
        share = self.examples_per_update // parts
        for whole in super().positions(start, total_examples):
            yield whole[part * share : (part + 1) * share]

    def place(self, batch: Batch) -> Batch:
        return {name: self._put_share(value) for name, value in batch.items()}


class AllReduceJit(AllReduce):
    """The global program under `jit` with NamedSharding (once called pjit); BatchNorm over the global batch."""

    def _compile(self) -> None:
        # Operations that XLA could not partition are told by the mesh that it is to do so.
        mesh = self._mesh.abstract_mesh

        def step(arrays: Tree, batch: Batch, learning_rate: jax.Array, stop: jax.Array) -> tuple[Tree, Metrics]:
            with jax.sharding.use_abstract_mesh(mesh):
                arrays, metrics = update(self.task, arrays, batch, learning_rate)
            return arrays, metrics | {"stop": stop.sum()}

        def evaluate(arrays: Tree, batch: Batch) -> Metrics:
            with jax.sharding.use_abstract_mesh(mesh):
                return self.task.evaluate(arrays["params"], arrays["model_state"], batch)

        self._step = jax.jit(step, donate_argnums=0, out_shardings=self._replicated)
        self._evaluate = jax.jit(evaluate, out_shardings=self._replicated)


class AllReducePmap(AllReduce):
    """The same body under `jax.pmap`: each array has a leading dimension, one entry a local device."""

    def _compile(self) -> None:
        self._step = jax.pmap(
            self._replica_step,
            AXIS,
            in_axes=(0, 0, None, 0),
            out_axes=(0, None),
            donate_argnums=0,
            devices=jax.devices(),
        )
        self._evaluate = jax.pmap(self._replica_evaluate, AXIS, out_axes=None, devices=jax.devices())

    def _put_everywhere(self, leaf: Any) -> jax.Array:
        value = np.array(leaf)
        return self._put_local(np.broadcast_to(value, (len(jax.local_devices()), *value.shape)))

    def _put_local(self, value: np.ndarray) -> jax.Array:
        """`value` [local devices, ...] as the array over all devices that pmap's inputs are."""
        return jax.make_array_from_process_local_data(self._by_example, value)

    def _fetch(self, leaf: jax.Array) -> np.ndarray:
        return super()._fetch(leaf)[0]

    def place(self, batch: Batch) -> Batch:
        local = len(jax.local_devices())
        return {name: value.reshape(local, -1, *value.shape[1:]) for name, value in batch.items()}
