"""What the devices of this process hold of arrays that lie over several processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Sharding


@dataclasses.dataclass(frozen=True)
class Box:
    """For each dim, where it starts and stops."""

    bounds: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, index: Sequence[slice] | None, shape: Sequence[int]) -> Box:
        assert index is not None  # JAX's type for an index that it cannot tell
        return cls(tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True)))

    @classmethod
    def held_here(cls, sharding: Sharding, shape: tuple[int, ...]) -> Box:
        """The smallest that contains all that this process's devices hold of an array of that shape."""
        held = [cls.of(index, shape).bounds for index in sharding.addressable_devices_indices_map(shape).values()]
        dims = zip(*held, strict=True)
        return cls(tuple((min(start for start, _ in dim), max(stop for _, stop in dim)) for dim in dims))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def index(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.bounds)

    def within(self, other: Box) -> tuple[slice, ...]:
        """The index of this box in an array that holds the other, which contains it."""
        outside = zip(self.bounds, other.bounds, strict=True)
        assert all(low <= start and stop <= high for (start, stop), (low, high) in outside), (self, other)
        starts = (start for start, _ in other.bounds)
        return tuple(slice(a - at, b - at) for (a, b), at in zip(self.bounds, starts, strict=True))


def put_from_box(value: np.ndarray, box: Box, sharding: Sharding, shape: tuple[int, ...]) -> jax.Array:
    """The array of that shape, of which this process holds `value` at `box`. The memory of `value` may become its."""
    return jax.make_array_from_callback(shape, sharding, lambda index: value[Box.of(index, shape).within(box)])
