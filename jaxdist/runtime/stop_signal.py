"""SIGTERM as a wish to stop after saving."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class StopSignal:
    """Whether SIGTERM has come. Not a threading.Event: its lock must not be taken inside a signal handler."""

    received = False


@contextlib.contextmanager
def sigterm_as_stop_signal() -> Iterator[StopSignal]:
    """While open, SIGTERM sets the flag instead of ending the process (in the main thread alone)."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(*_: object) -> None:
        stop.received = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
