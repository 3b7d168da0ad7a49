"""From arrays in shards over processes to arrays in host memory, or lazy arrays that are put together on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdist.comm.array_server import ArrayExchange
from jaxdist.parallel.local_box import Box
from jaxdist.state import LazyArray, Tree, arrays_of, flatten


def export_arrays(arrays: Tree, version: int, exchange: ArrayExchange | None) -> Tree:
    """The same tree on the host, safe from later steps.

    Where an array has shards on several processes, each keeps its own for the chief, as of update `version`; the
    chief has lazy arrays that fetch them, the others the shape alone. Collective.
    """
    kept: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for path, array in flatten(arrays).items():
        if array.is_fully_replicated and (exchange is None or exchange.is_chief):
            found[path] = np.array(array.addressable_data(0))
        elif array.is_fully_replicated:  # nobody asks this process for it
            found[path] = LazyArray(tuple(array.shape), np.dtype(array.dtype), _not_here)
        elif array.is_fully_addressable:
            found[path] = np.array(array)
        else:
            own = {s.device.id: np.array(s.data) for s in array.addressable_shards if s.replica_id == 0}
            kept |= {f"{path}@{device}": data for device, data in own.items()}
            assert exchange is not None
            make = _maker(path, array, own, version, exchange) if exchange.is_chief else _not_here
            found[path] = LazyArray(tuple(array.shape), np.dtype(array.dtype), make)
    if exchange is not None:
        exchange.keep(version, kept)
    return arrays_of(found)


def _not_here() -> np.ndarray:
    raise RuntimeError("The chief alone has the canonical state.")


def _maker(
    path: str, array: jax.Array, own: dict[int, np.ndarray], version: int, exchange: ArrayExchange
) -> Callable[[], np.ndarray]:
    """What puts the array together on the chief. Holds no device array."""
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    first: dict[Box, Any] = {}  # of the devices that hold the same part, the one that keeps it
    for device, index in array.sharding.devices_indices_map(shape).items():
        first.setdefault(Box.of(index, shape), device)  # as JAX numbers replicas
    parts: list[tuple[tuple[slice, ...], Any]] = []
    for box, device in first.items():
        data: Any = own.get(device.id)
        if data is None:
            name = f"{path}@{device.id}"
            data = exchange.lazy(device.process_index, version, name, box.shape, dtype)
        parts.append((box.index, data))

    def make() -> np.ndarray:
        whole = np.empty(shape, dtype)
        for index, part in parts:
            whole[index] = np.asarray(part)
        return whole

    return make
