"""How named tensors lie in one flat vector, and which part of it each server holds.

    params   |kernel kernel kernel ... |bias bias ...|scale ...|     sorted by the last part of the name, then by name
    servers  |------- 0 -------|------- 1 -------|----- 2 -----|     equal shares of elements, so of bytes

A cut may fall inside a tensor: rules are elementwise, so it does not matter to them. Elements whose names end alike
form a group; a rule may treat groups differently (weight decay, for one).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A named tensor; `dtype` as NumPy writes it ('float32')."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def group(self) -> str:
        return self.name.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype}{list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The tensors of a model, in the order of the flat vectors. All of one floating dtype."""

    params: tuple[Tensor, ...]
    stats: tuple[Tensor, ...]

    @classmethod
    def of(cls, params: Mapping[str, Any], stats: Mapping[str, Any]) -> Layout:
        """From flat dicts of things with a shape and a dtype.

        Raises:
          ValueError: more than one dtype.
        """
        layout = cls(_in_order(params), _in_order(stats))
        layout.dtype  # noqa: B018 - checks
        return layout

    @property
    def dtype(self) -> np.dtype:
        found = sorted({t.dtype for t in self.params + self.stats})
        if len(found) != 1:
            raise ValueError(f"parameters and statistics must share one dtype, not {', '.join(found) or 'none'}")
        return np.dtype(found[0])

    @functools.cached_property
    def num_params(self) -> int:
        return sum(t.size for t in self.params)

    @functools.cached_property
    def num_stats(self) -> int:
        return sum(t.size for t in self.stats)

    def difference(self, other: Layout) -> str:
        """Names the first tensor in which `other` differs from this layout; '' where they are the same."""
        for mine, theirs in ((self.params, other.params), (self.stats, other.stats)):
            known, given = {t.name: t for t in mine}, {t.name: t for t in theirs}
            for name in itertools.chain(known, given):
                if known.get(name) != given.get(name):
                    return f"the server has {known.get(name, f'no {name!r}')}, the caller {given.get(name, 'does not')}"
        return "" if self == other else "the same tensors in another order"

    def shard(self, index: int, count: int) -> FlatShard:
        """What server `index` of `count` holds."""
        bounds = [_share(total, index, count) for total in (self.num_params, self.num_stats)]
        groups: dict[str, int] = {}
        at = 0
        for tensor in self.params:
            inside = min(at + tensor.size, bounds[0].stop) - max(at, bounds[0].start)
            if inside > 0:
                groups[tensor.group] = groups.get(tensor.group, 0) + inside
            at += tensor.size
        return FlatShard(bounds[0], bounds[1], groups, self.dtype)


@dataclasses.dataclass(frozen=True)
class FlatShard:
    """One server's part: slices of the two flat vectors, and the sizes of the groups inside the first, in order.

    On the wire its parameters come first, then its statistics.
    """

    params: slice
    stats: slice
    groups: Mapping[str, int]
    dtype: np.dtype

    @property
    def num_params(self) -> int:
        return self.params.stop - self.params.start

    @property
    def num_stats(self) -> int:
        return self.stats.stop - self.stats.start

    @property
    def num_bytes(self) -> int:
        return (self.num_params + self.num_stats) * self.dtype.itemsize

    def split(self, vector: Any) -> dict[str, Any]:
        """A vector of this flat shard's parameters as {group: vector}."""
        edges = [0, *itertools.accumulate(self.groups.values())]
        return {g: vector[a:b] for g, (a, b) in zip(self.groups, itertools.pairwise(edges), strict=True)}


def _in_order(tensors: Mapping[str, Any]) -> tuple[Tensor, ...]:
    found = [Tensor(name, tuple(t.shape), str(np.dtype(t.dtype))) for name, t in tensors.items()]
    return tuple(sorted(found, key=lambda t: (t.group, t.name)))


def _share(total: int, index: int, count: int) -> slice:
    return slice(total * index // count, total * (index + 1) // count)


def pack(tensors: tuple[Tensor, ...], values: Mapping[str, Any], numpy: Any = np) -> Any:
    """The flat vector [size] of named arrays; `numpy` may be `jax.numpy`.

    Raises:
      KeyError, ValueError: a tensor is missing or has another shape.
    """
    parts = []
    for tensor in tensors:
        value = values[tensor.name]
        if tuple(value.shape) != tensor.shape:
            raise ValueError(f"{tensor.name!r} has shape {tuple(value.shape)} instead of {tensor.shape}")
        parts.append(numpy.ravel(value))
    return numpy.concatenate(parts) if parts else numpy.zeros((0,), np.float32)


def unpack(tensors: tuple[Tensor, ...], vector: Any) -> dict[str, Any]:
    """The inverse of `pack`; views where the vector is a NumPy array."""
    values, at = {}, 0
    for tensor in tensors:
        values[tensor.name] = vector[at : at + tensor.size].reshape(tensor.shape)
        at += tensor.size
    return values
