"""Which examples a process trains on: its slice of each update, pending ranges first, until the budget is used up."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdist.state import Position
from jaxdist.strategies.positions import Slices


def taken(start: Position, each: int, part: tuple[int, int], until: int) -> list[list[int]]:
    return [list(positions) for positions in Slices(start, each, part, until)]


def test_the_parts_of_processes_make_each_update():
    whole = taken(Position(12), 12, (0, 1), 48)
    assert whole == [list(range(k, k + 12)) for k in (12, 24, 36)]
    parts = [taken(Position(12), 12, (part, 3), 48) for part in range(3)]
    assert [[*one, *two, *three] for one, two, three in zip(*parts, strict=True)] == whole
    assert {len(share) for shares in parts for share in shares} == {4}


def test_what_was_claimed_and_not_done_comes_first():
    start = Position(20, ((3, 6), (10, 11)))  # 24 were handed out
    assert taken(start, 6, (0, 1), 34) == [[3, 4, 5, 10, 24, 25], [26, 27, 28, 29, 30, 31]]
    assert taken(start, 6, (1, 2), 34) == [[10, 24, 25], [29, 30, 31]]


@pytest.mark.parametrize(("until", "updates"), [(0, 0), (11, 0), (12, 1), (23, 1), (24, 2)])
def test_only_whole_updates_are_trained(until, updates):
    assert len(taken(Position(), 12, (0, 1), until)) == updates


def test_positions_fit_long_runs_and_may_be_iterated_again():
    slices = Slices(Position(2**40), 4, (0, 2), 2**40 + 8)
    first, again = list(slices), list(slices)
    assert first[0].dtype == np.int64 and [list(a) for a in first] == [list(a) for a in again]
    assert list(first[1]) == [2**40 + 4, 2**40 + 5]
    slices.close()
