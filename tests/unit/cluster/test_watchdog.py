"""Process 0's side of the watchdog, without processes: who is judged lost, or slow.

`processes/` has the others' side.
"""

from __future__ import annotations

import json

import pytest
from helpers.clock import Clock

from jaxdist.cluster import watchdog
from jaxdist.cluster.membership import Membership
from jaxdist.cluster.watchdog import WatchdogServer


@pytest.fixture
def members() -> Membership:
    return Membership(2)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watchdog, "time", made)
    return made


def request(**fields) -> bytes:
    return json.dumps(fields).encode()


def send(server: WatchdogServer, process: int, update: int, activity: str = "train", limit: float = 60.0) -> str:
    """Sends a heartbeat; the failure that it is answered with, or ''."""
    reply = server.methods["heartbeat"](request(process=process, update=update, activity=activity, limit=limit))
    return json.loads(reply)["text"] if reply else ""


def test_missing_heartbeats(members, clock):
    server = WatchdogServer(members, timeout_seconds=0.2)
    assert send(server, 0, 3) == send(server, 1, 3, "compile") == ""
    clock.sleep(0.3)
    assert send(server, 0, 4) == "process 1 was lost: no heartbeat for 0.2 s at update 3 (compile)"
    assert members.code == 1


def test_whoever_has_left_is_not_missed(members, clock):
    server = WatchdogServer(members, timeout_seconds=0.2)
    assert send(server, 0, 3) == send(server, 1, 3) == ""
    members.methods["leave"](request(process=1))
    clock.sleep(0.3)
    assert send(server, 0, 4) == ""


def test_the_slowest_is_named_when_nobody_advances(members, clock):
    server = WatchdogServer(members, timeout_seconds=60)
    assert send(server, 0, 4, limit=0.1) == send(server, 1, 3, limit=0.8) == ""
    clock.sleep(0.3)
    assert send(server, 0, 4, limit=0.1) == ""  # the other may still take its time
    clock.sleep(0.6)
    assert send(server, 0, 4, limit=0.1).startswith("process 1 did not get past update 3 within 0.8 s")


@pytest.mark.parametrize(
    ("happens", "text"), [("", "process 1 was lost: its connection ended at update 5"), ("leave", ""), ("rejoin", "")]
)
def test_the_end_of_a_watch_stream(members, happens, text):
    server = WatchdogServer(members, timeout_seconds=60)
    send(server, 1, 5)
    stream = server.streams["watch"](request(process=1))
    assert next(stream) == b""
    if happens:
        (members.methods | server.methods)[happens](request(process=1))
    stream.close()
    assert members.failure == text


def test_a_failure_reaches_watch_streams_and_heartbeats(members):
    server = WatchdogServer(members, timeout_seconds=60)
    stream = server.streams["watch"](request(process=0))
    assert next(stream) == b""
    members.methods["fail"](request(process=1, text="no memory", code=75))
    assert json.loads(next(stream)) == {"code": 75, "text": "process 1 was stopped: no memory"}
    assert send(server, 0, 1) == "process 1 was stopped: no memory"
