"""Who a moment belongs to: every instant of a step goes to what ran then, so that rows add up to the step.

    thread 1   |== conv ==|      |===== dot =====|
    thread 2        |== norm ==|         |= add =|
    self time  |conv|half|norm|gap|  dot |  half |      two at once: half each
                                 |
                                 goes to the next level: a loop's own time, a wait of the training thread, ...

*Self time* adds up: what levels before it have taken, a level does not get. *Wall time* is how long at least one call
was under way, whatever else was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def self_times(
    levels: Sequence[tuple[np.ndarray, np.ndarray]], begin: float, end: float
) -> tuple[list[np.ndarray], float]:
    """Self time of every interval, level by level, in seconds, and the time that belongs to none.

    Args:
      levels: (starts [n], ends [n]) each, within [begin, end], the first to be served first.
    """
    every = [np.array([begin, end])] + [np.concatenate(level) for level in levels]
    times = np.unique(np.concatenate(every))
    free = np.diff(times)  # of each moment between two events, what nobody has taken yet
    found = []
    for starts, ends in levels:
        first, last = np.searchsorted(times, starts), np.searchsorted(times, ends)
        change = np.zeros(len(times))
        np.add.at(change, first, 1)
        np.add.at(change, last, -1)
        running = np.cumsum(change)[:-1]
        share = np.divide(free, running, out=np.zeros_like(free), where=running > 0)
        until = np.concatenate([[0.0], np.cumsum(share)])
        found.append(until[last] - until[first])
        free = np.where(running > 0, 0.0, free)
    return found, float(free.sum())


def wall_time(starts: np.ndarray, ends: np.ndarray) -> float:
    """Seconds during which at least one of the intervals was under way."""
    if not len(starts):
        return 0.0
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > ends[:-1]])
    return float(np.sum(np.concatenate([ends[:-1][first[1:]], ends[-1:]]) - starts[first]))
