"""SIGTERM while a run can still save, and while there is nothing to save; `processes/` shows what becomes of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.processes import ROOT, environment

from jaxdist.errors import Terminated
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


def test_with_nothing_to_save_the_signal_is_an_error_at_once():
    with sigterm_as_stop_signal() as stop:
        stop.end_at_once(Terminated("nothing yet", 75))
        with pytest.raises(Terminated, match="nothing yet") as raised:
            signal.raise_signal(signal.SIGTERM)
        assert raised.value.code == 75
        stop.hold()
        signal.raise_signal(signal.SIGTERM)
    with sigterm_as_stop_signal() as stop:
        lost = [False, True]
        stop.end_at_once(Terminated("nothing yet"), lambda: lost.pop())
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    with sigterm_as_stop_signal() as stop:
        stop.end_at_once(Terminated("nothing yet"), lambda: False)  # another process has made an update
        signal.raise_signal(signal.SIGTERM)
        assert stop.received


def test_somebody_s_program_goes_on_when_it_has_caught_the_error():
    """No thread of ours ends it later; a handler of its own for SIGINT stays."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        with pytest.raises(Terminated), sigterm_as_stop_signal() as stop:
            stop.end_at_once(Terminated("nothing yet"))
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        assert came == [1]
    finally:
        signal.signal(signal.SIGINT, before)
    assert "signals" not in [thread.name for thread in threading.enumerate()]


PROGRAM = """
import multiprocessing, os, sys, time
from jaxdist.errors import Terminated
from jaxdist.runtime.stop_signal import sigterm_as_stop_signal
with sigterm_as_stop_signal(end_process=True) as stop:
    stop.end_at_once(Terminated("nothing yet"))
    if sys.argv[1] == "child":
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join()
        time.sleep(3)
        print("well", child.exitcode)
    else:
        stop.before_end(lambda error: print("told", error, flush=True))
        try:
            print("ready", flush=True)
            time.sleep(60)
        except Terminated:
            time.sleep(60)  # whoever caught it takes too long
os._exit(0)
"""


@pytest.mark.parametrize(("what", "code"), [("child", 0), ("slow", 143)])
def test_the_thread_ends_its_own_process_and_for_its_own_signals_alone(what, code):
    """A process that a data set has forked may be terminated; one that is too slow is ended, with a last line."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, what]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        if what == "slow":
            assert process.stdout.readline() == "ready\n"
            begin = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    if what == "child":
        assert said == f"well {-signal.SIGTERM}\n"
    else:
        assert said.splitlines()[-1] == "jaxdist: stopped: nothing yet" and time.monotonic() - begin < 4
