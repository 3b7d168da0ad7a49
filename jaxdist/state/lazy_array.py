"""Arrays that are made, read or fetched only when they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Select = Callable[[Any], Any]  # from an array to a part of it, e.g. `a[:3]`; for NumPy and JAX arrays alike


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array that is made, read or fetched only when `np.asarray` asks for it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        made = np.array(self.make(), dtype=dtype or self.dtype, copy=True if copy else None)
        if made.shape != self.shape:
            raise ValueError(f"A leaf of shape {self.shape} was made with shape {made.shape}.")
        return made

    @classmethod
    def part(cls, leaf: Any, select: Select) -> LazyArray:
        """A part of an array or leaf, which is whole for a moment when the part is asked for and not empty."""
        shape, dtype = part_shape(leaf, select), np.dtype(leaf.dtype)
        return cls(shape, dtype, lambda: select(np.asarray(leaf)) if 0 not in shape else np.empty(shape, dtype))


def part_shape(leaf: Any, select: Select) -> tuple[int, ...]:
    """Of the part that `select` takes from such an array; takes nothing."""
    import jax  # not above: `jaxdist.main` knows its cluster, and thus this module, before it may load JAX

    return tuple(jax.eval_shape(select, jax.ShapeDtypeStruct(leaf.shape, np.uint8)).shape)
