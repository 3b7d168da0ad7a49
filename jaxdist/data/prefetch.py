"""What is made ahead by threads: batches, prepared and placed on devices while the step runs."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Work:
    """Seconds, of the thread that asks or of those that work for it.

    Attributes:
      items: until there was an item; what makes them may wait for others (a parameter server's claims).
      making: of making something of it.
    """

    items: float = 0.0
    making: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.items + other.items, self.making + other.making)

    def __sub__(self, other: Work) -> Work:
        return Work(self.items - other.items, self.making - other.making)


class _Slot(Generic[Made]):
    """Place of one result, in the order of the items."""

    def __init__(self) -> None:
        self.asked = self.came = 0.0  # when the item was asked for, and there
        self.value: Made | None = None
        self.error: BaseException | None = None
        self.is_end = False
        self.done = threading.Event()


class Prefetched(Iterator[Made], Generic[Item, Made]):
    """`make(item)` for each item, in their order, made ahead by threads; iterated and closed by one thread.

    An exception in `make` or `items` is raised where its result was due. `items` are asked for by one thread at a time.

    Args:
      depth: how many are ready or being made ahead of what was asked for; 0: each is made when it is asked for.
      workers: threads that make them, so many at a time (as many as `depth` has room for); 0 is one.

    Attributes:
      waited: what the last `next` waited for.
    """

    def __init__(self, make: Callable[[Item], Made], items: Iterable[Item], depth: int, workers: int = 0) -> None:
        self._make, self._items = make, iter(items)
        self.waited = Work()
        self._work, self._taken = Work(), Work()
        self._slots: queue.SimpleQueue[_Slot[Made]] = queue.SimpleQueue()
        self._turn, self._count = threading.Lock(), threading.Lock()
        self._room = threading.Semaphore(max(depth, workers))
        self._last: _Slot[Made] | None = None
        self._over = False  # no more items are wanted, or there are none
        self._threads: list[threading.Thread] = []
        if depth <= 0:
            return
        for number in range(max(workers, 1)):
            name = "prefetch" if workers <= 1 else f"prefetch-{number}"
            self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Prefetched[Item, Made]:
        return self

    def __next__(self) -> Made:
        """Blocks until the next is made."""
        if not self._threads:
            return self._made_now()
        begin = time.monotonic()
        slot = self._last or self._slots.get()
        slot.done.wait()
        end = time.monotonic()
        for_items = max(min(slot.came, end) - max(slot.asked, begin), 0.0)
        self.waited = Work(for_items, end - begin - for_items)
        if slot.is_end or slot.error is not None:
            self._last = slot  # whoever asks again hears the same
            raise slot.error or StopIteration
        self._room.release()
        return slot.value  # type: ignore[return-value]

    def _made_now(self) -> Made:
        begin = time.monotonic()
        came = end = 0.0
        try:
            item = next(self._items)
            came = time.monotonic()
            return self._make(item)
        finally:
            end = time.monotonic()
            came = came or end
            self.waited = Work(came - begin, end - came)
            self._work += self.waited

    def take_work(self) -> Work:
        """What threads have worked since the last call, waited for or not. Does not block."""
        with self._count:
            work, self._taken = self._work - self._taken, self._work
        return work

    def close(self) -> None:
        """Ends the threads; blocks until they have made what they are at, and `items` has given what was asked for."""
        self._over = True
        for _ in self._threads:
            self._room.release()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._items = iter(())

    def _run(self) -> None:
        """One thread: takes an item in its turn, makes it beside the others."""
        while True:
            self._room.acquire()
            slot: _Slot[Made] = _Slot()
            with self._turn:
                if self._over:
                    break
                self._slots.put(slot)
                slot.asked = time.monotonic()
                try:
                    item = next(self._items)
                except StopIteration:
                    self._over = slot.is_end = True
                except BaseException as e:  # handed over to the consumer
                    self._over, slot.error = True, e
                slot.came = time.monotonic()
                ends = self._over and (slot.is_end or slot.error is not None)
            if not ends:
                try:
                    slot.value = self._make(item)
                except BaseException as e:  # nobody will ask for what comes after it
                    self._over, slot.error = True, e
            with self._count:
                self._work += Work(slot.came - slot.asked, time.monotonic() - slot.came)
            slot.done.set()
            if self._over:
                break
        self._room.release()  # for the next thread, to see that it is over


def prefetch(
    make: Callable[[Item], Made], items: Iterable[Item], depth: int, workers: int = 0
) -> Prefetched[Item, Made]:
    """Yields make(item) for each item; see `Prefetched`. Close it to end its threads."""
    return Prefetched(make, items, depth, workers)
