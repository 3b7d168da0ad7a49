"""Where a run stands in the stream of training examples: how many are done, and which earlier ones are not.

    stream     0 ........................ next ................
    done       ######__########__########
    pending          ^^        ^^           claimed by a worker that was asked to stop, or was lost

A synchronous run has no pending ranges. An asynchronous one is saved with those that were being worked on; whoever
resumes it, under any strategy, takes them first, so that no example is skipped or taken twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

Ranges = tuple[tuple[int, int], ...]  # [start, stop) each


@dataclasses.dataclass(frozen=True)
class Position:
    """A cursor over the stream.

    Attributes:
      seen: examples taken so far.
      pending: ranges before the cursor that are not among them.
    """

    seen: int = 0
    pending: Ranges = ()

    @property
    def next(self) -> int:
        """The first position that was never handed out."""
        return self.seen + size(self.pending)

    def take(self, count: int) -> tuple[Ranges, Position]:
        """The next `count` examples, pending ones first, and the position after them."""
        taken: list[tuple[int, int]] = []
        pending = list(self.pending)
        left = count
        while left and pending:
            start, stop = pending.pop(0)
            cut = min(stop, start + left)
            taken.append((start, cut))
            left -= cut - start
            if cut < stop:
                pending.insert(0, (cut, stop))
        if left:
            taken.append((self.next, self.next + left))
        return tuple(taken), Position(self.seen + count, tuple(pending))

    def give_back(self, ranges: Iterable[tuple[int, int]]) -> Position:
        """The position as if `ranges`, taken earlier, had not been taken."""
        given = tuple(ranges)
        return Position(self.seen - size(given), tuple(sorted(self.pending + given)))


def size(ranges: Iterable[tuple[int, int]]) -> int:
    """Number of examples in ranges."""
    return sum(stop - start for start, stop in ranges)


def bounds(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """[start, stop, start, stop, ...]: ranges as they travel."""
    return [edge for pair in ranges for edge in pair]


def from_bounds(edges: Sequence[int]) -> Ranges:
    """The inverse of `bounds`."""
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def indices(ranges: Ranges) -> np.ndarray:
    """The positions in ranges, in order: int64 [size]."""
    if len(ranges) == 1:
        return np.arange(*ranges[0])
    return np.concatenate([np.arange(start, stop) for start, stop in ranges])
