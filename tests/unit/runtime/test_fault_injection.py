"""Faults on purpose: what the tests and the trials rely on."""

from __future__ import annotations

import os
import signal

import pytest
from helpers.clock import Clock

from jaxdist.errors import UsageError
from jaxdist.runtime import fault_injection
from jaxdist.runtime.fault_injection import Faults


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(fault_injection, "time", made)
    return made


def test_a_slow_process_takes_its_factor_of_the_time(clock):
    faults = Faults(1, "slow@process=1,factor=3")
    faults.at("update", 1)
    begin = clock.now
    for update in range(2, 5):
        clock.sleep(0.05)
        faults.at("update", update)
    assert clock.now - begin == pytest.approx(3 * 3 * 0.05)


def test_others_are_not_slowed(clock):
    faults = Faults(0, "slow@process=1,factor=1000;delay@server=0,seconds=9")
    begin = clock.now
    for update in range(3):
        clock.sleep(0.01)
        faults.at("update", update)
    assert clock.now - begin == pytest.approx(0.03)


def test_a_fault_comes_once_at_its_update_or_at_the_first_one_seen_after_it(clock):
    text = "delay@update=3,seconds=2;raise@point=checkpoint,update=5"
    faults = Faults(0, text)
    for update, delay in ((1, 0), (2, 0), (4, 2), (5, 0)):
        begin = clock.now
        faults.at("update", update)
        assert clock.now - begin == delay
    with pytest.raises(RuntimeError, match="asked for this at update 7"):
        faults.at("checkpoint", 7)
    faults.at("checkpoint", 8)


def test_signals_go_to_this_process_and_replies_are_dropped_by_the_server_that_is_named(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))
    text = "kill@process=1,update=2;stop@process=0,point=switch;term@probability=0;drop@server=1,update=4"
    faults, server = Faults(0, text), Faults(1, text, role="server")
    for point in ("update", "switch"):
        for update in (2, 3):
            faults.at(point, update)
    assert sent == [(os.getpid(), signal.SIGSTOP)] * 2
    server.at("update", 4)
    assert [server.asked("drop", update) for update in (3, 4, 5)] == [False, True, False]
    assert not faults.asked("drop", 4)


@pytest.mark.parametrize("text", ["slowly@process=1", "slow@speed=2", "slow@factor=x"])
def test_faults_that_cannot_be_read_are_refused(text):
    with pytest.raises(UsageError, match="JAXDIST_FAULT"):
        Faults(0, text)
