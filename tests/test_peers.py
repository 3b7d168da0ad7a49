"""The rendezvous between threads of one process: who is refused, with what, and what is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import free_port

from jaxdist.cluster.rendezvous import Peers
from jaxdist.errors import PeerError, UsageError


def make(port: int, process_id: int, connect_timeout: float = 10.0) -> Peers:
    return Peers(f"127.0.0.1:{port}", process_id, 2, connect_timeout=connect_timeout, timeout_seconds=10.0)


@pytest.fixture
def pair() -> Iterator[tuple[Peers, Peers]]:
    port = free_port()
    both = make(port, 0), make(port, 1)
    yield both
    for peers in reversed(both):
        peers.close()


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
    stranger = make(int(pair[0]._address.rpartition(":")[2]), 1)
    with pytest.raises(UsageError, match="two processes were started with --process_id=1"):
        stranger.gather("join", 3)
    stranger._client.close()
    assert gather(pair, "end", [4, 5]) == [[4, 5]] * 2


def test_leaves_larger_than_a_chunk_arrive_whole(pair):
    gather(pair, "join", [1, 2])
    payload = bytes(range(256)) * 20_000
    assert pair[0].chief is not None
    pair[0].chief.serve_leaves({"leaf": lambda: payload, "empty": lambda: b""})
    assert pair[1].fetch("leaf") == payload
    assert pair[1].fetch("empty") == b""
