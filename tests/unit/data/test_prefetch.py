"""What a thread makes ahead: in order, errors where they were due, no thread left behind."""

from __future__ import annotations

import threading

import pytest

from jaxdist import data


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetch_keeps_order_and_raises_in_place(depth):
    def make(k):
        if k == 5:
            raise OSError("five")
        return k

    made = data.prefetch(make, range(9), depth)
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="five"):
        next(made)


def test_a_closed_prefetch_ends_its_thread():
    before = set(threading.enumerate())
    made = data.prefetch(lambda k: k, iter(int, 1), 2)
    next(made)
    assert [thread.name for thread in set(threading.enumerate()) - before] == ["prefetch"]
    made.close()
    assert not set(threading.enumerate()) - before
