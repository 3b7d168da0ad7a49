"""Which examples a process trains on next: positions of the stream, step by step."""

from __future__ import annotations

import abc
from collections.abc import Iterator

import numpy as np

from jaxdist.state.position import Position, indices


class Positions(abc.ABC):
    """Iterated by the prefetching threads, one at a time, ahead of the steps; closed by the training thread.

    Attributes:
      waits_for: what an iteration may block for: 'server'; '' where it never blocks.
    """

    waits_for: str = ""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the positions of one step after the other: int64 [examples this process must bring]. May block."""

    def close(self) -> None:  # noqa: B027 - most never wait
        """No more are wanted: the iteration must not go on waiting for some."""


class Slices(Positions):
    """Of each update's examples the same part, until a budget is used up: what synchronous strategies train on.

    Args:
      start: where in the stream the run stands.
      examples_per_update: of all processes.
      own_part: (index, count): which of so many equal parts this process brings.
      until: examples_seen at which to end.
    """

    def __init__(self, start: Position, examples_per_update: int, own_part: tuple[int, int], until: int) -> None:
        self._start, self._each, self._own_part, self._until = start, examples_per_update, own_part, until

    def __iter__(self) -> Iterator[np.ndarray]:
        (part, parts), at = self._own_part, self._start
        share = self._each // parts
        while at.seen + self._each <= self._until:
            taken, at = at.take(self._each)
            yield indices(taken)[part * share : (part + 1) * share]
