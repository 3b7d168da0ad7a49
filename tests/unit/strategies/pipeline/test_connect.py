"""Stages of several processes find each other: the later one opens the channel, and one that does not come is named."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from jaxdist.comm.ports import Ports
from jaxdist.comm.security import OPEN
from jaxdist.errors import ConnectionLost
from jaxdist.strategies.pipeline.connect import StageConnector

SECONDS = 60.0  # of what does come


class Processes:
    """Threads as processes: their gathers, each of which has a name of its own."""

    def __init__(self, count: int) -> None:
        self._barrier, self._lock = threading.Barrier(count, timeout=SECONDS), threading.Lock()
        self._values: dict[str, dict[int, object]] = {}
        self._count = count

    def gather(self, process: int, name: str, value) -> list:
        with self._lock:
            assert process not in self._values.setdefault(name, {}), f"{name!r} is gathered twice"
            self._values[name][process] = value
        self._barrier.wait()
        return [self._values[name][i] for i in range(self._count)]


class Member:
    host = "127.0.0.1"
    ports = Ports()
    security = OPEN

    def __init__(self, processes: Processes, process: int) -> None:
        self._processes, self._process = processes, process

    def gather(self, name, value, timeout=None):
        return self._processes.gather(self._process, name, value)


def on_all(count: int, work):
    """[work(connector, process)] of so many processes at once."""
    processes = Processes(count)

    def one(process: int):
        member = Member(processes, process)
        connector = StageConnector(member, process, name="phase 1", seconds=SECONDS, connect_seconds=SECONDS)
        try:
            return work(connector, process)
        finally:
            connector.close()

    with ThreadPoolExecutor(count) as threads:
        return [found.result() for found in [threads.submit(one, process) for process in range(count)]]


def test_neighbours_of_every_replica_are_linked_and_no_others():
    """Process 0 has stage 0 of both replicas, 1 and 2 have stage 1 of one each."""
    where = {(0, 0): 0, (1, 0): 0, (0, 1): 1, (1, 1): 2}
    wanted = {0: [((0, 0), (0, 1)), ((1, 0), (1, 1))], 1: [((0, 1), (0, 0))], 2: [((1, 1), (1, 0))]}
    gathered = threading.Barrier(3, timeout=SECONDS)

    def work(connector, process):
        devices = {own: jax.devices()[process + own[0]] for own, _ in wanted[process]}
        links = connector.open([(own, other, where[other], devices[own]) for own, other in wanted[process]])
        assert links.keys() == set(wanted[process])
        for ((replica, stage), _), link in links.items():
            link.send({"from": [replica, stage]}, np.full(2, 10 * replica + stage, np.float32))
        found = {}
        for (own, other), link in links.items():
            header, array = link.receive((2,), np.float32)
            assert header == {"from": list(other)} and array.devices() == {devices[own]}
            found[own] = int(array[0])
        gathered.wait()  # nobody closes before all have received
        return found

    assert on_all(3, work) == [{(0, 0): 1, (1, 0): 11}, {(0, 1): 0}, {(1, 1): 10}]


def test_one_that_does_not_come_is_named():
    group = Member(Processes(1), 0)
    connector = StageConnector(group, 0, name="phase 1", seconds=0.1, connect_seconds=0.1)
    try:
        with pytest.raises(ConnectionLost, match=r"could not be connected: .*process 3 \(stage 1, replica 0\)"):
            connector.open([((0, 0), (0, 1), 3, jax.devices()[0])])
    finally:
        connector.close()


def test_processes_of_a_run_share_a_token_that_no_other_run_has():
    tokens = on_all(2, lambda connector, process: connector.token)
    assert tokens[0] == tokens[1] != on_all(1, lambda connector, process: connector.token)[0]
