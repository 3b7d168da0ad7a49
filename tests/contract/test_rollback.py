"""Servers that are started again: all go back to one snapshot, under new numbers.

Promises of `ps/rollback.py`, `ps/snapshots.py`, `ps/server_state.py` and `ps/monitor.py`, under real servers.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from helpers.servers import VALUES, Servers, push, settings_of_a_run, values, wait_for_snapshot

from jaxdist.ps import Fenced
from jaxdist.ps.rollback import Rollback
from jaxdist.ps.snapshots import Snapshots


@pytest.mark.parametrize("victim", [0, 1])
def test_a_restarted_server_brings_all_back_to_one_snapshot(tmp_path, victim):
    with Servers(tmp_path, 2) as servers:
        (client,) = servers.begin(snapshot_seconds=0.2, connect_seconds=30.0)
        for step in range(5):
            push(client, 1.0, step)
        wait_for_snapshot(tmp_path, 5)
        for step in range(5, 8):
            push(client, 1.0, step)
        claimed = client.claim()
        servers.servers[victim].close()
        servers.servers[victim] = servers.start(victim)
        caller = client.caller
        with pytest.raises(Fenced):
            push(client, 1.0, 8, claim=claimed)
        client.rejoin(caller)
        pulled = client.pull(start=True)
        assert client.caller.incarnation == 2
        assert 5 <= pulled.version <= 8
        np.testing.assert_array_equal(values(pulled, client), -pulled.version)
        taken = client.claim()
        assert taken.ranges[0][0] == pulled.version, "its examples are handed out again"
        events = [e["event"] for e in client.take_events()]
        assert "updates_lost" in events
        assert push(client, 1.0, pulled.version, claim=taken).version == pulled.version + 1


def test_numbers_are_not_used_again_however_often_servers_go_back(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin(snapshot_seconds=0.2, connect_seconds=30.0)
        seen: set[int] = set()
        for incarnation in (1, 2, 3):
            claims = [client.claim() for _ in range(3)]
            numbers = {c.number for c in claims} | {client.caller.session}
            assert not numbers & seen and client.caller.incarnation == incarnation
            seen |= numbers
            if incarnation == 1:
                wait_for_snapshot(tmp_path)
            servers.servers[0].close()
            servers.servers[0] = servers.start(0)
            with pytest.raises(Fenced):
                push(client, claim=claims[0])
            client.rejoin(claims[0].caller)


def test_a_snapshot_of_other_servers_is_left_alone(tmp_path):
    with Servers(tmp_path, 2) as servers:
        servers.begin(snapshot_seconds=0.2)
        wait_for_snapshot(tmp_path)
    with Servers(tmp_path, 1) as servers:
        (client,) = servers.begin()
        assert push(client).version == 1


def test_a_chief_that_begins_while_servers_go_back_keeps_its_values(tmp_path, monkeypatch):
    """What a killed run has left is gone when server 0 comes to read it: it must not forget the run begun meanwhile."""
    with Servers(tmp_path) as servers:
        servers.begin(snapshot_seconds=0.2)
        wait_for_snapshot(tmp_path)
    loading, begun, over = threading.Event(), threading.Event(), threading.Event()
    load, roll_back = Snapshots.load, Rollback.roll_back

    def late_load(*arguments):
        loading.set()
        assert begun.wait(30)
        return load(*arguments)

    def watched(rollback) -> None:
        roll_back(rollback)
        over.set()

    monkeypatch.setattr(Snapshots, "load", late_load)
    monkeypatch.setattr(Rollback, "roll_back", watched)
    with Servers(tmp_path) as servers:
        assert loading.wait(30)
        client = servers.client()
        client.begin(settings_of_a_run(), VALUES)
        begun.set()
        assert over.wait(30)
        client.join()
        assert client.caller.incarnation == 1
        assert push(client).version == 1
