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
from typing import Any

from jaxdist.errors import Terminated, ending
from jaxdist.runtime import last_words

END_SECONDS = 1.8
_HANDLER_SECONDS = 0.4  # for the main thread to come by a place where its handler runs


class StopSignal:
    """Whether SIGTERM has come, and what it means at present.

    Attributes:
      received: it has come. Not a threading.Event: its lock must not be taken inside a signal handler.
    """

    def __init__(self) -> None:
        self.received = False
        self._nothing_to_save: Terminated | None = None
        self._still: Callable[[], bool] = _always
        self._before_end: list[Callable[[BaseException], object]] = []
        self._raised = self._ended = False

    def end_at_once(self, error: Terminated, still: Callable[[], bool] | None = None) -> None:
        """From now on the signal ends the process with `error`, as long as `still()`: there is nothing to save."""
        self._nothing_to_save, self._still = error, still or _always

    def hold(self) -> None:
        """From now on there is something to save: the signal is noted."""
        self._nothing_to_save, self._still = None, _always

    def before_end(self, tell: Callable[[BaseException], object]) -> None:
        """`tell` is called with the error before the process ends where it cannot raise; from another thread."""
        self._before_end.append(tell)

    def _error(self, number: int) -> BaseException | None:
        """What the signal ends the process with; None where it is to be noted alone."""
        if self._nothing_to_save is None or not self._still():
            return None
        return KeyboardInterrupt() if number == signal.SIGINT else self._nothing_to_save

    # The main thread.

    def note(self, number: int, _frame: object) -> None:
        """The handler."""
        if self._ended:  # the thread is at its last words
            return
        if number == signal.SIGINT:
            self._raised = True
            raise KeyboardInterrupt
        again, self.received = self.received, True
        if not again and (error := self._error(number)) is not None:
            self._raised = True
            raise error

    # The thread.

    def watch(self, signals: socket.socket) -> None:
        """Ends the process where the main thread does not, soon after a signal. Returns when the socket ends."""
        with signals:
            while received := signals.recv(1):  # signal numbers
                if received[0] in (signal.SIGTERM, signal.SIGINT):
                    self._end_unless_raised(received[0])

    def _end_unless_raised(self, number: int) -> None:
        begin = time.monotonic()
        while time.monotonic() < begin + _HANDLER_SECONDS and not self._raised:
            time.sleep(0.02)
        error = self._error(number)
        if error is None:
            return
        if self._raised:  # it is on its way out: what that takes is not to be more than the signal allows
            time.sleep(max(begin + END_SECONDS - time.monotonic(), 0.0))
        self._ended = True
        code, words = ending(error)
        last_resort = threading.Timer(END_SECONDS, os._exit, (code,))  # the words may not find their way: a full pipe
        last_resort.daemon = True
        last_resort.start()
        if not self._raised:
            for tell in self._before_end:
                threading.Thread(target=tell, args=(error,), daemon=True).start()
        code = last_words.say(code, words)
        time.sleep(max(begin + END_SECONDS - time.monotonic(), 0.0))
        os._exit(code)


def _always() -> bool:
    return True


@contextlib.contextmanager
def sigterm_as_stop_signal(*, end_process: bool = False) -> Iterator[StopSignal]:
    """While open, SIGTERM means what the `StopSignal` says instead of ending the process (in the main thread alone).

    Args:
      end_process: whether a thread may end the process where the main thread does not come to raise; not in somebody's
        own program.
    """
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop.note)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody handles or ignores it
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop.note)
    with _watched(stop) if end_process else contextlib.nullcontext():
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _watched(stop: StopSignal) -> Iterator[None]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    _keep_forks_apart(ours, theirs)
    threading.Thread(target=stop.watch, args=(ours,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        theirs.close()


def _keep_forks_apart(*sockets: socket.socket) -> None:
    """A process that a user's code forks has signals of its own, which must not wake this one's thread. They wait from
    before the fork until the child has let go of what it has inherited."""
    ours = {signal.SIGTERM, signal.SIGINT}
    masks: list[Any] = []

    def hold_back() -> None:
        if sockets[-1].fileno() >= 0:
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ours))

    def go_on() -> None:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def forget() -> None:
        if masks:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for one in sockets:
                one.close()
            go_on()

    os.register_at_fork(before=hold_back, after_in_parent=go_on, after_in_child=forget)
