"""SIGTERM: a wish to stop after saving, or, while there is nothing to save, to end at once.

    start, compile   nothing to save     SIGTERM ends the process within END_SECONDS
    steps            holds a state       SIGTERM is noted; the loop saves, and then ends by itself

The handler can raise only where the main thread runs Python. Inside a compilation it runs minutes later, so a thread
that is woken by the signal itself says the last words and ends the process then (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from jaxdist.errors import Terminated
from jaxdist.runtime import last_words

END_SECONDS = 1.8
_HANDLER_SECONDS = 0.4  # for the main thread to come by a place where its handler runs

INTERRUPTED = 130


class StopSignal:
    """Whether SIGTERM has come, and what it means at present.

    Attributes:
      received: it has come. Not a threading.Event: its lock must not be taken inside a signal handler.
    """

    def __init__(self) -> None:
        self.received = False
        self._nothing_to_save: Terminated | None = None
        self._still: Callable[[], bool] = lambda: True
        self._before_end: list[Callable[[BaseException], object]] = []
        self._raised = self._ended = False

    def end_at_once(self, error: Terminated, still: Callable[[], bool] = lambda: True) -> None:
        """From now on the signal ends the process with `error`, as long as `still()`: there is nothing to save."""
        self._nothing_to_save, self._still = error, still

    def hold(self) -> None:
        """From now on there is something to save: the signal is noted."""
        self._nothing_to_save = None

    def before_end(self, tell: Callable[[BaseException], object]) -> None:
        """`tell` is called with the error before the process ends where it cannot raise; from another thread."""
        self._before_end.append(tell)

    def _error(self, number: int) -> BaseException | None:
        """What the signal ends the process with; None where it is to be noted alone."""
        if self._nothing_to_save is None or not self._still():
            return None
        if number == signal.SIGINT:
            return KeyboardInterrupt()
        return self._nothing_to_save

    # The main thread.

    def note(self, number: int, _frame: object) -> None:
        """The handler."""
        if self._ended:  # the thread is at its last words
            return
        error = self._error(number)
        if number == signal.SIGINT:
            self._raised = True
            raise KeyboardInterrupt
        again, self.received = self.received, True
        if error is not None and not again:
            self._raised = True
            raise error

    # The thread.

    def watch(self, signals: socket.socket) -> None:
        """Ends the process where the main thread does not, soon after a signal. Returns when the socket ends."""
        with signals:
            self._watch(signals)

    def _watch(self, signals: socket.socket) -> None:
        while received := signals.recv(1):  # signal numbers
            begin = time.monotonic()
            while time.monotonic() < begin + _HANDLER_SECONDS and not self._raised:
                time.sleep(0.02)
            error = self._error(received[0])
            if received[0] not in (signal.SIGTERM, signal.SIGINT) or error is None:
                continue
            code = error.code if isinstance(error, Terminated) else INTERRUPTED
            if not self._raised:
                self._ended = True
                self._say(error, code)
                for tell in self._before_end:
                    threading.Thread(target=tell, args=(error,), daemon=True).start()
            time.sleep(max(begin + END_SECONDS - time.monotonic(), 0.0))
            os._exit(code)

    def _say(self, error: BaseException, code: int) -> None:
        """The last words; where they cannot be said (a full pipe), the process ends all the same."""
        last_resort = threading.Timer(END_SECONDS, os._exit, (code,))
        last_resort.daemon = True
        last_resort.start()
        with contextlib.suppress(OSError, ValueError):
            last_words.say(code, str(error) or "interrupted (SIGINT)")


@contextlib.contextmanager
def sigterm_as_stop_signal() -> Iterator[StopSignal]:
    """While open, SIGTERM means what the `StopSignal` says instead of ending the process (in the main thread alone)."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop.note)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody handles or ignores it
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop.note)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=stop.watch, args=(ours,), name="signals", daemon=True).start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
