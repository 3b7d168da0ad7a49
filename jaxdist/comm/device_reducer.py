"""Trees summed over devices that each hold one, from outside of a program; the devices may be of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.comm.reducer import Reducer

_AXIS = "data"


class DeviceReducer:
    """Sums over `devices`; nothing at all where there is one.

    Collective over the processes of the devices, from the constructor on: it connects them, since the members of a gloo
    collective wait 30 seconds for each other the first time.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        here = set(jax.local_devices())
        self._local = [d for d in devices if d in here]
        self._count = len(devices)
        if self._count == 1:
            return
        mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))
        self._by_device = NamedSharding(mesh, P(_AXIS))
        # One collective a dtype.
        reducer = Reducer(_AXIS, self._count, float("inf"))
        summed = jax.shard_map(reducer.sum, mesh=mesh, in_specs=P(_AXIS), out_specs=P(_AXIS))
        self._sum = jax.jit(summed)
        self._spread = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf[None], tree))
        self._narrow = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf[0], tree))
        jax.block_until_ready(self([jnp.zeros(())] * len(self._local)))

    def __call__(self, trees: Sequence[Any]) -> list[Any]:
        """From the trees of this process's devices, in their order, the sums, on the same devices. Collective."""
        if self._count == 1:
            return list(trees)
        spread = [self._spread(jax.device_put(tree, d)) for tree, d in zip(trees, self._local, strict=True)]

        def joined(*parts: jax.Array) -> jax.Array:
            shape = (self._count, *parts[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self._by_device, list(parts))

        whole = self._sum(jax.tree.map(joined, *spread))
        return [self._narrow(jax.tree.map(lambda leaf, d=d: _on(leaf, d), whole)) for d in self._local]


def _on(leaf: jax.Array, device: jax.Device) -> jax.Array:
    return next(shard.data for shard in leaf.addressable_shards if shard.device == device)
