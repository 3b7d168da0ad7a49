"""Sums over replicas, inside a compiled program: all that copies of a model exchange goes through one object.

    step that exchanges gradients      | gradients | statistics | metrics, stop |     one buffer, one round
    step that exchanges none           | metrics, stop |                              a channel of its own
    gradients in shares                | vector | -> sum -> own share

Gradients, statistics, metrics and the flag that asks everybody to stop are fused (`fused.py`): each collective costs a
round over the network, whatever its size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

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

    def all_true(self, here: jax.Array) -> jax.Array:
        """Whether a flag, bool [], is true on every device: one number."""
        return jax.lax.psum(here.astype(jnp.int32), self.axis) == self.count

    def share_of_sum(self, vector: jax.Array) -> jax.Array:
        """This device's share of the sum of a vector, [size / count].

        A reduce-scatter would halve the bytes. On gloo it fails after 30 s if a peer is late and may give wrong sums
        (jax#40830, jax#40831), hence the all-reduce and a slice.
        """
        return self.own_share(jax.lax.psum(vector, self.axis))

    def own_share(self, vector: jax.Array) -> jax.Array:
        """This device's share of a vector that it has whole; no collective."""
        share = vector.size // self.count
        return jax.lax.dynamic_slice_in_dim(vector, jax.lax.axis_index(self.axis) * share, share)


def _with_stop(metrics: dict[str, Any], stop: jax.Array) -> dict[str, Any]:
    return metrics | {"stop": stop[0].astype(metrics["count"].dtype)}
