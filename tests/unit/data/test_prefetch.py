"""What threads make ahead: in order, errors where they were due, nobody left behind, and who waited for what."""

from __future__ import annotations

import sys
import threading
import time

import jax
import numpy as np
import pytest
from helpers.waiting import wait_until

from jaxdist import data
from jaxdist.data.prefetch import Prefetched, Work

SIZES = [(0, 0), (0, 3), (1, 0), (3, 0), (1, 2), (4, 3)]


@pytest.mark.parametrize(("depth", "workers"), SIZES)
def test_prefetch_keeps_order_and_raises_in_place(depth, workers):
    def make(k):
        if k == 5:
            raise OSError("five")
        return k

    made = data.prefetch(make, range(9), depth, workers)
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    for _ in range(2 if depth else 1):  # who asks again hears the same
        with pytest.raises(OSError, match="five"):
            next(made)
    made.close()
    assert not threads()


@pytest.mark.parametrize(("depth", "workers"), SIZES)
def test_an_error_of_what_gives_the_items_is_raised_after_what_it_gave(depth, workers):
    def items():
        yield from range(3)
        raise ValueError("no more")

    made = data.prefetch(lambda k: k, items(), depth, workers)
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no more"):
        next(made)
    made.close()


@pytest.mark.parametrize(("depth", "workers"), SIZES)
def test_the_end_comes_after_everything_and_stays(depth, workers):
    made = data.prefetch(lambda k: k * k, range(20), depth, workers)
    assert list(made) == [k * k for k in range(20)]
    assert list(made) == []
    made.close()
    assert not threads()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_closed_prefetch_ends_its_threads(workers):
    made = data.prefetch(lambda k: k, iter(int, 1), 2, workers)
    next(made)
    assert len(threads()) == max(workers, 1)
    made.close()
    assert not threads()


def test_workers_make_at_the_same_time_and_no_more_than_there_is_room_for():
    together = threading.Barrier(3, timeout=30.0)
    asked = []

    def items():
        for k in range(6):
            asked.append(k)
            yield k

    made = data.prefetch(lambda k: (together.wait(), k)[1], items(), 1, 3)  # none is made unless three are
    together_made = [next(made) for _ in range(6)]
    assert together_made == list(range(6)) == asked
    made.close()
    room = data.prefetch(lambda k: k, iter(asked.pop, None), 2, 0)
    assert next(room) == 5
    room.close()
    assert len(asked) >= 3  # of six: one was taken, two may be ahead of it


def test_a_batch_does_not_depend_on_who_makes_it():
    dataset = data.load("synthetic", options={"num_train": 40, "num_eval": 5, "shape": (4, 4, 1)})
    loader = data.Loader(means=data.mean_of(dataset.train), scales={"image": 255.0}, seed=3, augment=True)
    stream = data.ExampleStream(40, 3)

    def batches(depth, workers):
        def make(start):
            return loader.train_batch(dataset.train, stream, range(start, start + 7))

        made = data.prefetch(make, range(0, 98, 7), depth, workers)
        found = list(made)
        made.close()
        return found

    reference = batches(0, 0)
    for depth, workers in SIZES[1:]:
        for one, other in zip(reference, batches(depth, workers), strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)


def blocked_in_next(thread: int) -> bool:
    """Whether this thread is in a call from `Prefetched.__next__`: in Python there is the wait for a result alone."""
    above = sys._current_frames()[thread].f_back
    while above is not None and above.f_code is not Prefetched.__next__.__code__:
        above = above.f_back
    return above is not None


@pytest.mark.parametrize(("depth", "workers"), [(0, 0), (1, 0), (2, 2)])
def test_it_knows_what_was_waited_for_and_what_was_done(depth, workers):
    """Nothing is asked of the clock but what must be, however busy the machine is."""
    consumer = threading.get_ident()

    def items():
        if threading.get_ident() != consumer:
            wait_until(lambda: blocked_in_next(consumer), "the consumer's wait")
        time.sleep(0.2)
        yield 1
        yield 2

    made = data.prefetch(lambda k: sum(range(20_000 * k)), items(), depth, workers)
    next(made)
    assert made.waited.items >= 0.2 and made.waited.making >= 0.0  # for the item, and then for what was made of it
    begin = time.monotonic()
    next(made)
    assert 0.0 <= made.waited.items + made.waited.making <= time.monotonic() - begin  # nothing of the first
    assert next(made, None) is None
    done = made.take_work()
    assert done.items >= 0.2 and done.making > 0.0
    assert made.take_work() == Work()
    made.close()
