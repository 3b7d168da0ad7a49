"""Workers and chiefs that give no sign of life.

Promises of `ps/monitor.py`, `ps/session.py`, `ps/claims.py`, `ps/tally.py` and `ps/timing.py`, under real servers.
"""

from __future__ import annotations

import time

import pytest
from helpers.servers import Servers, push
from helpers.waiting import wait_until

from jaxdist.errors import PeerError
from jaxdist.ps import Fenced
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.state.position import indices


def test_late_pushes_of_a_lost_worker_are_refused_and_its_examples_go_to_others(tmp_path):
    with Servers(tmp_path) as servers:
        first, second = servers.begin(2, total=4, lease_seconds=1.5)
        claim = second.claim()
        second._session._silent.set()  # no signs of life any more
        wait_until(lambda: first.report.get("live") == [0], "end of the other's lease", 20)
        with pytest.raises(Fenced, match="session"):
            push(second, 1.0, 0, claim=claim)
        taken = []
        while (mine := first.claim()) is not None:
            taken += list(indices(mine.ranges))
            push(first, claim=mine)
        assert sorted(taken) == [0, 1, 2, 3]
        assert [e["event"] for e in first.take_events()] == ["worker_lost"]


def test_a_chief_that_is_lost_ends_the_run(tmp_path):
    with Servers(tmp_path) as servers:
        first, second = servers.begin(2, lease_seconds=1.0)
        first._session._silent.set()
        with pytest.raises(PeerError, match=r"worker 0 \(the chief\) was lost"):
            for _ in range(100):
                second.heartbeat()
                time.sleep(0.1)
        assert servers.servers[0].wait().code == 1


def test_a_chief_that_is_silent_for_a_moment_keeps_its_session_and_the_run_goes_on(tmp_path):
    """Its link was down: it is given `timeout_seconds`, where a worker's lease is over."""
    with Servers(tmp_path) as servers:
        first, second = servers.begin(2, total=2, lease_seconds=0.5, timeout_seconds=60.0)
        claim = first.claim()
        first._session._silent.set()
        second._session._silent.set()
        time.sleep(1.5)
        with pytest.raises(Fenced, match="session"):
            second.heartbeat()
        first.heartbeat()
        push(first, claim=claim)
        assert first.report["live"] == [0]


def test_of_two_processes_with_one_number_the_later_stays(tmp_path):
    """They would end each other's sessions for ever: the one whose place was taken ends, and names both."""
    with Servers(tmp_path) as servers:
        servers.begin(2, total=8)
        twins = [servers.client(1) for _ in range(2)]
        for number, twin in enumerate(twins):
            twin._session._request.process = f"process {number} on host-{number}"
            twin.join()
        claim = twins[1].claim()
        words = r"process 1 on host-1 has taken the place of process 0 on host-0 as worker 1: .* --process_id=1"
        with pytest.raises(PeerError, match=words):
            twins[0]._session.in_session(lambda caller: twins[0]._calls.call(0, "Heartbeat", _heartbeat(caller)))
        push(twins[1], claim=claim)
        twins[1].join()  # the same process, once more


def _heartbeat(caller: pb.Caller) -> pb.HeartbeatRequest:
    return pb.HeartbeatRequest(caller=caller)
