"""A task seen through the buffers that parameter servers hold: gradients and evaluations, compiled on local devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.comm.reducer import Reducer
from jaxdist.parallel.flat_layout import Layout, pack, unpack
from jaxdist.state import Tree, flatten, unflatten
from jaxdist.task import Batch, Metrics, Task

AXIS = "data"


class FlatModel:
    """One buffer a server, each its parameters, then its statistics.

    Args:
      num_servers: among which the model is divided.
      clips: a gradient is clipped here, before it is cut; else nowhere, or by the servers.
    """

    def __init__(self, task: Task, num_servers: int, *, clips: bool = False) -> None:
        self.task = task if clips else dataclasses.replace(task, clip_global_norm=0.0)
        self.layout = Layout.of(flatten(_shapes(task, 0)), flatten(_shapes(task, 1)))
        self._flat_shards = [self.layout.shard(i, num_servers) for i in range(num_servers)]
        local = jax.local_devices()
        self._mesh = jax.make_mesh((len(local),), (AXIS,), axis_types=(AxisType.Auto,), devices=local)
        self._whole, self._by_example = NamedSharding(self._mesh, P()), NamedSharding(self._mesh, P(AXIS))
        self._reducer = Reducer(AXIS, len(local))
        gradient = self._replica_gradient
        if len(local) > 1:
            gradient = jax.shard_map(gradient, mesh=self._mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=False)
        self.gradient = jax.jit(gradient)
        self._evaluate = jax.jit(self._evaluate_on_one)

    def put(self, buffers: Sequence[np.ndarray]) -> tuple[jax.Array, ...]:
        """The servers' buffers on all local devices."""
        return tuple(jax.device_put(b, self._whole) for b in buffers)

    def averaged(
        self, averages: Sequence[np.ndarray], weight: float, buffers: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Buffers with the average of the parameters in their place; the same where there is none yet.

        Args:
          averages: each server's part; `weight`: what they have come to (`Optimizer.evaluated`).
        """
        if not weight > 0:
            return list(buffers)
        cuts = [s.num_params for s in self._flat_shards]
        every = zip(averages, buffers, cuts, strict=True)
        return [np.concatenate([(a / weight).astype(b.dtype), b[cut:]]) for a, b, cut in every]

    def put_batch(self, batch: Batch) -> Batch:
        """A host batch, divided among the local devices."""
        return jax.device_put(batch, self._by_example)

    def _trees(self, buffers: Sequence[Any]) -> tuple[Tree, Tree]:
        """(parameters, statistics)."""
        cuts = [s.num_params for s in self._flat_shards]
        params = jnp.concatenate([b[:c] for b, c in zip(buffers, cuts, strict=True)])
        stats = jnp.concatenate([b[c:] for b, c in zip(buffers, cuts, strict=True)])
        return unflatten(unpack(self.layout.params, params)), unflatten(unpack(self.layout.stats, stats))

    def _replica_gradient(self, buffers: Sequence[Any], batch: Batch) -> tuple[list[jax.Array], Metrics]:
        """The servers' buffers of this batch's gradient and new statistics; several local devices are averaged."""
        params, stats = self._trees(buffers)
        grads, stats, metrics = self.task.gradient(params, stats, batch)
        if self._reducer.count > 1:
            grads, stats, metrics = self._reducer.sum((grads, stats, metrics))
            grads, stats = self._reducer.mean((grads, stats))
        grads = self.task.clipped(grads)
        gradient = pack(self.layout.params, flatten(grads), jnp)
        statistics = pack(self.layout.stats, flatten(stats), jnp).astype(gradient.dtype)
        metrics["finite"] = jnp.isfinite(gradient).all() & jnp.isfinite(statistics).all()
        return [jnp.concatenate([gradient[s.params], statistics[s.stats]]) for s in self._flat_shards], metrics

    def _evaluate_on_one(self, buffers: Sequence[Any], batch: Batch) -> Metrics:
        params, stats = self._trees(buffers)
        return self.task.evaluate(params, stats, batch)

    def evaluate(self, buffers: Sequence[jax.Array], batch: Batch) -> Metrics:
        """Metrics of an evaluation batch, on the first local device."""
        return self._evaluate(tuple(b.addressable_data(0) for b in buffers), batch)


def _shapes(task: Task, which: int) -> Tree:
    return task.typed({name: pair[which] for name, pair in task.model.shapes.items() if pair[which]})
