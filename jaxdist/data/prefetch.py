"""What is made ahead by a thread: batches, prepared and placed on devices while the step runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def prefetch(make: Callable[[Any], Any], items: Iterable[Any], depth: int) -> Iterator[Any]:
    """Yields make(item) for each item, made up to `depth` ahead by a thread; depth 0 makes them when asked.

    An exception in `make` or `items` is raised where its result was due. Closing the iterator ends the thread.
    """
    if depth <= 0:
        yield from map(make, items)
        return
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=depth)
    end = object()
    stopped = threading.Event()

    def put(entry: tuple[Any, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                put((make(item), None))
            put((end, None))
        except BaseException as e:  # handed over to the consumer
            put((end, e))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            value, error = ready.get()
            if error is not None:
                raise error
            if value is end:
                return
            yield value
    finally:
        stopped.set()
        thread.join()
