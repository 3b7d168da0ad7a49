"""Sums over replicas, inside a compiled program: all that copies of a model exchange goes through one object.

    step that exchanges gradients      | gradients | statistics | metrics, stop |     one buffer, one round
    step that exchanges none           | metrics, stop |                              a channel of its own
    gradients in shares                | vectors | -> everybody's parts of the own share -> their sum

Gradients, statistics, metrics and the flag that asks everybody to stop are fused (`fused.py`): each collective costs a
round over the network, whatever its size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdist.comm.fused import fused_psum

METRICS_MEGABYTES = 1.0  # a few numbers: one buffer, whatever the user says of gradients


@dataclasses.dataclass(frozen=True)
class Reducer:
    """Over one mesh axis; every method is traced inside `shard_map` or `pmap`, and a collective of the axis's devices.

    Attributes:
      axis: of the mesh.
      count: devices along it.
      megabytes: largest fused buffer; 0 = one collective per array.
    """

    axis: str
    count: int
    megabytes: float = 64.0

    def sum(self, tree: Any) -> Any:
        """Over the replicas."""
        return fused_psum(tree, self.axis, self.megabytes)

    def mean(self, sums: Any) -> Any:
        """From sums over the replicas; no collective."""
        return jax.tree.map(lambda leaf: leaf / self.count, sums)

    def step(self, grads: Any, stats: Any, metrics: dict[str, Any], stop: jax.Array) -> tuple[Any, Any, dict[str, Any]]:
        """(mean gradients, mean statistics, summed metrics with `stop`) of a step, in one fused sum.

        `stop`: [1], this replica's flag.
        """
        grads, stats, metrics = self.sum((grads, stats, _with_stop(metrics, stop)))
        return self.mean(grads), self.mean(stats), metrics

    def signals(self, metrics: dict[str, Any], stop: jax.Array) -> dict[str, Any]:
        """Summed metrics with `stop` of a step that exchanges no gradients."""
        return self.metrics(_with_stop(metrics, stop))

    def metrics(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Summed metrics, of an evaluation."""
        return fused_psum(metrics, self.axis, METRICS_MEGABYTES)

    def sum_here(self, number: jax.Array) -> jax.Array:
        """Over the devices, of one number that each has."""
        return jax.lax.psum(number, self.axis)

    def all_true(self, here: jax.Array) -> jax.Array:
        """Whether a flag, bool [], is true on every device: one number."""
        return jax.lax.psum(here.astype(jnp.int32), self.axis) == self.count

    def shares_of_sum(self, vectors: Any) -> Any:
        """Of a tree of vectors of one dtype, this device's share of each one's sum, [size / count]; one collective.

        Everybody sends each the share that is his, and adds up what comes: the bytes of a reduce-scatter. That one
        itself fails on gloo after 30 s if a peer is late and may give wrong sums (jax#40830, jax#40831).
        """
        leaves, structure = jax.tree.flatten(vectors)
        if not leaves:
            return vectors
        rows = jnp.concatenate([leaf.reshape(self.count, -1) for leaf in leaves], axis=1)
        summed = jnp.sum(jax.lax.all_to_all(rows, self.axis, 0, 0), axis=0)
        ends = np.cumsum([leaf.size // self.count for leaf in leaves])
        return jax.tree.unflatten(structure, jnp.split(summed, ends[:-1]))

    def own_share(self, vector: jax.Array) -> jax.Array:
        """This device's share of a vector that it has whole; no collective."""
        share = vector.size // self.count
        return jax.lax.dynamic_slice_in_dim(vector, jax.lax.axis_index(self.axis) * share, share)


def _with_stop(metrics: dict[str, Any], stop: jax.Array) -> dict[str, Any]:
    return metrics | {"stop": stop[0].astype(metrics["count"].dtype)}
