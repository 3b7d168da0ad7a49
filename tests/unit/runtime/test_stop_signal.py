"""SIGTERM while a run can still save; `processes/` shows that it does."""

from __future__ import annotations

import signal
import threading

from jaxdist.runtime.stop_signal import sigterm_as_stop_signal


def test_sigterm_is_noted_while_open_and_means_what_it_meant_afterwards():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        with sigterm_as_stop_signal() as stop:
            assert not stop.received
            signal.raise_signal(signal.SIGTERM)
            assert stop.received and not came
        signal.raise_signal(signal.SIGTERM)
        assert came == [1]
        with sigterm_as_stop_signal() as another:
            assert not another.received
    finally:
        signal.signal(signal.SIGTERM, before)


def test_on_another_thread_nothing_changes():
    before, found = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with sigterm_as_stop_signal() as stop:
            found.append((stop.received, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, before)]
