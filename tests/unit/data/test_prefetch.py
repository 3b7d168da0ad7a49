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


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_a_closed_prefetch_ends_its_thread():
    made = data.prefetch(lambda k: k, iter(int, 1), 2)
    next(made)
    assert len(threads()) == 1
    made.close()
    assert not threads()
