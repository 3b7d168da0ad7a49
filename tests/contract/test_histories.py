"""Recorded histories of several workers: one order, one version a shard, the bound, pinned versions.

Promises of `ps/server.py`, `ps/client.py`, `ps/sequencer.py`, `ps/operations.py`, `ps/replication.py`, `ps/pulls.py`,
`ps/results.py` and `ps/staleness.py`, under real servers.
"""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from helpers.servers import Servers, push, record_on, values

from jaxdist.ps import largest_staleness


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bound", [-1, 0, 1, 3])
def test_a_recorded_history_keeps_the_contract(tmp_path, bound, count):
    with Servers(tmp_path, count) as servers:
        history = record_on(servers, servers.begin(3, bound, total=60))
        client = servers.clients[0]
        client.heartbeat()
        updates = 20 if bound == 0 else 60
        assert client.progress.version == updates and client.progress.examples_seen == 60
        assert sum(c["pushes"] for c in client.report["counted"].values()) == 60
        # Gradient 1 and rate 1: a parameter is minus the number of updates that it has had.
        final = client.pull(start=False, min_version=updates)
        np.testing.assert_array_equal(values(final, client), -updates)
    for w in range(3):
        mine = [e for e in history if e["worker"] == w]
        assert all(a["after"] < b["after"] for a, b in itertools.pairwise(mine)), "versions grow"
    for entry in history:
        own = entry["before"] + (entry["staleness"] or 0) + 1
        assert entry["after"] >= own, "a pull includes the push that it answers"
        assert -entry["high"] >= entry["after"], "no shard's values are older than server 0's"
        if count == 1:
            assert entry["low"] == entry["high"] == -entry["after"], "one version a shard"
        if bound >= 0:
            assert entry["lead"] <= bound
            assert entry["staleness"] <= largest_staleness(bound, 3, overlap=False)
    if bound != 0:
        made = sorted(e["before"] + e["staleness"] + 1 for e in history)
        assert made == list(range(1, 61)), "the version grows by one with each accepted push"


def test_staleness_keeps_its_bound_when_updates_are_slow(tmp_path):
    with Servers(tmp_path, on_update=lambda version: time.sleep(0.03)) as servers:
        history = record_on(servers, servers.begin(3, 1, total=60))
    assert max(e["staleness"] for e in history) <= largest_staleness(1, 3, overlap=False)


def test_a_pinned_version_is_one_on_all_servers_while_pushes_go_on(tmp_path):
    with Servers(tmp_path, 3) as servers:
        writer, reader = servers.begin(2, total=100000)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                push(writer, 1.0, 0)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(20):

                def read(pinned) -> None:
                    time.sleep(0.005)
                    vector = pinned.vector("params", np.dtype(np.float32))
                    np.testing.assert_array_equal(vector, -pinned.progress.version)

                reader.read_one_version(read)
        finally:
            stop.set()
            thread.join(20)
