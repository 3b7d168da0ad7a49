"""Process groups between threads of one process: who is refused, with what, and what is fetched.

Holds what cluster/coordinator.py serves and connects; `processes/` has groups of real processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from free_ports import free_port
from helpers.certificates import issued

from jaxdist.cluster import Cluster, ProcessGroup, rendezvous
from jaxdist.cluster.calls import CoordinatorClient
from jaxdist.cluster.coordinator import Connection
from jaxdist.comm import waiting
from jaxdist.comm.rpc import Server
from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import ConnectionLost, PeerError, UsageError
from jaxdist.state import LazyArray

SECONDS = ("timeout_seconds", "connect_timeout_seconds", "compile_timeout_seconds", "evaluate_timeout_seconds")
SETTINGS = dict.fromkeys(SECONDS, 60.0)


def make(port: int, process_id: int, run: str = "", security: Security = OPEN, **settings: float) -> ProcessGroup:
    address = f"127.0.0.1:{port}"
    cluster = Cluster(process_id=process_id, num_processes=2, coordinator_address=address, security=security)
    return ProcessGroup(cluster, SETTINGS | settings, Connection(cluster, SETTINGS | settings, run))


def close_alone(chief: ProcessGroup) -> None:
    """Without waiting for another one, which was never there."""
    chief._connection.coordinator.membership.left.add(1)
    chief.close()


@pytest.fixture
def pair() -> Iterator[tuple[ProcessGroup, ProcessGroup]]:
    port = free_port()
    both = make(port, 0), make(port, 1)
    yield both
    for group in reversed(both):
        group.close()


def gather(pair, name, values, timeout=None):
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(p.gather, name, v, timeout) for p, v in zip(pair, values, strict=True)]
        return [call.result() for call in calls]


def test_everybody_gets_everybodys_value(pair):
    assert gather(pair, "join", ["a", {"b": 1}]) == [["a", {"b": 1}]] * 2


def test_a_failure_while_others_wait_is_not_bad_input(pair):
    gather(pair, "join", [1, 2])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pair[0].gather, "data", None)
        pair[1].fail("RuntimeError: no memory", code=1)
        with pytest.raises(PeerError, match="process 1 failed: RuntimeError: no memory"):
            waiting.result()


def test_bad_input_of_one_is_bad_input_of_all(pair):
    gather(pair, "join", [1, 2])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pair[0].gather, "data", None)
        pair[1].fail("the data set is not there.", code=2)
        with pytest.raises(UsageError, match=r"cannot start together: process 1 failed: the data set is not there\.$"):
            waiting.result()


def test_a_stranger_is_refused_alone(pair):
    gather(pair, "join", [1, 2])
    stranger = make(int(pair[0]._cluster.coordinator_address.rpartition(":")[2]), 1)
    with pytest.raises(UsageError, match="--process_id=1 is taken by process"):
        stranger.gather("join", 3)
    stranger._connection.client.close()
    assert gather(pair, "end", [4, 5]) == [[4, 5]] * 2


def test_without_the_token_nobody_takes_part_and_those_who_wait_hear_of_it():
    port = free_port()
    chief = make(port, 0, security=Security("right"))
    chief.reach()
    for security in (OPEN, Security("wrong")):
        with contextlib.closing(make(port, 1, security=security)) as stranger:
            words = (
                rf"^--coordinator_address=127.0.0.1:{port}: the token is missing or another one \(JAXDIST_TOKEN\)\.$"
            )
            with pytest.raises(UsageError, match=words):
                stranger.reach()
    with pytest.raises(UsageError, match=r"process 1: never heard of; a process at 127.0.0.1 was refused: the token"):
        chief.gather("join", 0, 0.1)
    with contextlib.closing(make(port, 1, security=Security("right"))) as other:
        other.reach()
        assert gather((chief, other), "again", [1, 2]) == [[1, 2]] * 2
    chief.close()


def test_encrypted_everybody_needs_the_authority_and_process_0_a_certificate():
    port = free_port()
    with pytest.raises(UsageError, match="Process 0 listens for others"):
        make(port, 0, security=issued())
    chief = make(port, 0, security=issued("127.0.0.1"))
    with contextlib.closing(make(port, 1, security=issued())) as other:
        for group in (chief, other):
            group.reach()
        assert gather((chief, other), "join", [1, 2]) == [[1, 2]] * 2
    chief.close()


def test_what_keeps_process_0_from_answering_is_said(monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.0)
    port = free_port()
    with contextlib.closing(make(port, 1, connect_timeout_seconds=0.5)) as early:
        words = (
            f"^Process 0 could not be reached at --coordinator_address=127.0.0.1:{port} within [1-9] s: 127.0.0.1 is "
        )
        with pytest.raises(UsageError, match=f"{words}there, but nothing listens at its port {port}"):
            early.reach()
    encrypted = make(port, 0, security=issued("127.0.0.1"))
    with contextlib.closing(make(port, 1, connect_timeout_seconds=1.0)) as plain:
        with pytest.raises(UsageError, match=r"another program, or TLS is set up on one side alone \(.+\)\.$"):
            plain.reach()
    close_alone(encrypted)


def test_a_certificate_for_another_host_ends_the_wait(monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.0)
    port = free_port()
    chief = make(port, 0, security=issued("127.0.0.2"))
    for group in (chief, make(port, 1, security=issued())):
        with pytest.raises(
            UsageError, match=r"its certificate is not for this name or address, or not of the authority"
        ):
            group.reach()
    group.close()
    close_alone(chief)


def test_another_service_at_the_address_is_no_process_0(monkeypatch):
    server = Server("127.0.0.1:0", {"other": lambda payload: b""})
    with contextlib.closing(make(server.port, 1)) as stranger:
        words = rf"^--coordinator_address=127.0.0.1:{server.port}: what listens there is no process 0 of this version"
        with pytest.raises(UsageError, match=words):
            stranger.reach()
    server.close()


def test_process_0_on_another_host_than_its_address_says(monkeypatch):
    monkeypatch.setattr(rendezvous, "OWN_SECONDS", 0.5)
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.0)
    chief = make(free_port(), 0)
    elsewhere = dataclasses.replace(chief._cluster, coordinator_address=f"127.0.0.2:{free_port()}")
    chief._connection.client = CoordinatorClient(elsewhere.coordinator_address, 0)
    chief._connection.rendezvous = rendezvous.Rendezvous(chief._connection.client, 2)
    with pytest.raises(UsageError, match=r"process 0 must run on the host .* may be wrong\.$"):
        chief.reach()
    close_alone(chief)


def test_clocks_that_differ_are_warned_of(pair, monkeypatch, caplog):
    pair[1].reach()
    assert not caplog.messages
    here = time.time
    for seconds, words in ((95.0, "95 s ahead of"), (-40.0, "40 s behind")):
        monkeypatch.setattr(
            rendezvous, "time", types.SimpleNamespace(time=lambda s=seconds: here() + s, sleep=time.sleep)
        )
        pair[1].reach()
        assert caplog.messages[-1].startswith(f"This host's clock is {words} that of process 0's host")


@pytest.mark.parametrize("order", [*itertools.permutations(["A0", "A1", "B0", "B1"])], ids="-".join)
def test_two_jobs_on_one_port_start_in_any_order(order):
    """One of them has the port, and both of its processes; the other's are refused, one by one."""
    port = free_port()
    met: dict[str, list] = {}
    refused: dict[str, str] = {}
    groups: list[ProcessGroup] = []

    def start(name: str) -> None:
        job, process = name[0], int(name[1])
        try:
            groups.append(group := make(port, process, f"run_id={job}"))
            met[name] = group.gather("join", name)
        except UsageError as e:
            refused[name] = str(e)

    with ThreadPoolExecutor(4) as pool:
        for name in order:
            pool.submit(start, name)
    (winner,) = {name[0] for name in met}
    loser = "B" if winner == "A" else "A"
    assert met == {f"{winner}0": [f"{winner}0", f"{winner}1"], f"{winner}1": [f"{winner}0", f"{winner}1"]}
    assert "cannot serve at --coordinator_address" in refused[f"{loser}0"]
    assert f"served there: run_id={winner}, and this process belongs to run_id={loser}" in refused[f"{loser}1"]
    for group in sorted(groups, key=lambda group: group.is_chief):  # which waits for the other to leave
        group.close()


def test_arrays_larger_than_a_chunk_arrive_whole(pair):
    gather(pair, "join", [1, 2])
    payload = np.tile(np.arange(256, dtype=np.uint8), 20_000)
    empty = np.empty((0, 3), np.float32)
    made = []

    def lazy(name, array):
        return LazyArray(array.shape, array.dtype, lambda: made.append(name) or array)

    pair[0].serve_arrays(7, {"array": lazy("array", payload), "empty": lazy("empty", empty), "here": payload})

    def fetch(version, name, like):
        return np.asarray(pair[1].served_array(version, name, like.shape, like.dtype))

    np.testing.assert_array_equal(fetch(7, "array", payload), payload)
    np.testing.assert_array_equal(fetch(7, "here", payload), payload)
    np.testing.assert_array_equal(fetch(7, "empty", empty), empty)
    assert made == ["array"]  # once, however many chunks it took
    with pytest.raises(ConnectionLost, match="2097152 bytes came where 4 were expected"):
        fetch(7, "array", np.zeros(1, np.float32))
    with pytest.raises(ConnectionLost, match="there is no array 'other' here"):
        fetch(7, "other", payload)
    with pytest.raises(ConnectionLost, match="update 8 is not served here"):
        fetch(8, "array", payload)


def test_a_group_of_one_waits_for_nobody():
    group = ProcessGroup.alone(Cluster(), SETTINGS)
    assert group.is_chief and not group.fate_sharing and group.host == "127.0.0.1"
    assert group.gather("join", 1) == [1] and group.broadcast("rule", 2) == 2 and group.phase_under_way() == -1
    assert group.agree_on_next("phase", {"what": "end"}) == {"what": "end"}
    assert group.diagnose(RuntimeError()) is None
    group.agree("data", {"seed": 0})
    group.open_collectives("phase 1")
    group.close_collectives()
    group.end_fate_sharing("phase 2", 1)
    group.state_received("phase 2")
    with group.activity("compile"):
        group.note_progress(1)
    group.fail("no matter")
    group.disconnect()


def test_the_cluster_is_known_before_jax_is_loaded():
    code = "import sys, jaxdist.main; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
