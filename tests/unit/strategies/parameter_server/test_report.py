"""What a worker of the parameter servers says: its window's numbers, and what the servers have counted of all."""

from __future__ import annotations

import pytest
from helpers.clock import Clock

from jaxdist.strategies.parameter_server import report
from jaxdist.strategies.parameter_server.report import Exchanged, WorkerReport
from jaxdist.strategies.report import Wait


class Servers:
    """What a client has heard of them, one heartbeat after the other."""

    def __init__(self, *reports: dict) -> None:
        self._reports, self.report = list(reports), {}
        self.bytes_sent = self.bytes_received = self.retries = 0
        self.evaluator, self.evaluations, self.left = False, [], None

    def heartbeat_away(self, away: bool) -> None:
        assert away
        if self._reports:
            self.report = self._reports.pop(0)

    def leave(self, own) -> None:
        self.left = own

    def take_evaluations(self) -> list[dict]:
        taken, self.evaluations = self.evaluations, []
        return taken

    def take_events(self) -> list[dict]:
        return [{"event": "worker_lost"}]


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(report, "time", clock)
    return clock


def test_a_row_is_of_what_came_since_the_last_one():
    servers = Servers()
    found = WorkerReport(servers, 1, 3, 4, 10.0)
    window = found.window
    window.staleness, window.clock_lead_max, window.steps, window.not_finite = [1, 4, 2], 3, 4, 1
    window.wait_seconds, window.compute_seconds = 0.25, 1.0
    servers.bytes_sent, servers.bytes_received = 100, 40
    assert found.row() == {
        "staleness_mean": 2.333,
        "staleness_max": 4,
        "clock_lead_max": 3,
        "bytes_sent": 100,
        "bytes_received": 40,
        "wait_ms": 62.5,
        "compute_ms": 250.0,
        "not_finite": 1,
    }
    servers.bytes_sent = 130
    nothing = dict.fromkeys(("staleness_max", "clock_lead_max", "bytes_received", "not_finite"), 0)
    assert found.row() == nothing | {"staleness_mean": 0.0, "bytes_sent": 30, "wait_ms": 0.0, "compute_ms": 0.0}
    assert found.events() == [{"event": "worker_lost"}]


class Job:
    """A push and pull that goes on between two moments."""

    def __init__(self, clock: Clock, begun: float, ended: float) -> None:
        self.clock, self.found = clock, Exchanged("pulled", 1000.0 + begun, 1000.0 + ended)

    def result(self) -> Exchanged:
        self.clock.now = max(self.clock.now, self.found.ended)
        return self.found


def test_what_is_waited_for_is_the_servers_and_not_the_gradient(clock):
    found = WorkerReport(Servers(), 0, 1, 4, 10.0)
    assert found.result(Job(clock, 3.0, 5.0)) == "pulled"  # three seconds of computing, then two of the servers
    assert found.waits() == {"server": Wait(2.0, 0.0)} and found.waits() == {"server": Wait(0.0, 0.0)}
    clock.sleep(2.0)
    found.result(Job(clock, 6.0, 8.0))  # a second of it went on while this thread did something else
    assert found.waits() == {"server": Wait(1.0, 1.0)}
    clock.sleep(5.0)
    found.result(Job(clock, 9.0, 12.0))
    with found.waiting():
        clock.sleep(0.5)
    assert found.waits() == {"server": Wait(0.5, 3.0)}


def test_an_evaluator_evaluates_where_there_is_one():
    servers = Servers()
    found = WorkerReport(servers, 0, 1, 4, 10.0)
    assert found.evaluations() is None  # this process is to
    servers.evaluator = True
    assert found.evaluations() == []
    servers.evaluator, servers.evaluations = False, [{"loss": 1.0}]  # it has gone, and left something
    assert found.evaluations() == [{"loss": 1.0}] and found.evaluations() is None


def test_a_worker_leaves_with_its_numbers_and_the_chief_waits_for_all(clock):
    servers = Servers()
    other = WorkerReport(servers, 1, 3, 4, 10.0)
    assert other.gather([7]) == [[7]] and servers.left == [7] and other.has_left
    servers = Servers(
        {"live": [0, 1, 2]}, {"live": [0, 1], "reports": {"2": [9]}}, {"live": [0], "reports": {"2": [9]}}
    )
    chief = WorkerReport(servers, 0, 3, 4, 10.0)
    assert chief.gather([5]) == [[5], None, [9]]  # worker 1 was lost
    assert servers.left is None and not chief.has_left and clock.now == pytest.approx(1000.2)


def test_where_all_are_needed_one_that_was_lost_may_come_back(clock):
    """Its link was down for longer than its lease; without the need nobody waits for it."""
    reports = [{"live": [0]}, {"live": [0]}, {"live": [0, 1]}, {"live": [0], "reports": {"1": [9]}}]
    assert WorkerReport(Servers(*reports), 0, 2, 4, 10.0).gather([5]) == [[5], None]
    assert WorkerReport(Servers(*reports), 0, 2, 4, 10.0).gather([5], all_needed=True) == [[5], [9]]
    assert clock.now == pytest.approx(1000.3)
    assert WorkerReport(Servers(*reports[:1]), 0, 2, 4, 10.0).gather([5], all_needed=True) == [[5], None]
    assert clock.now == pytest.approx(1010.3, abs=0.11)
    failed = {"live": [0], "reports": {"1": {"failed": "out of memory"}}}
    assert WorkerReport(Servers(failed), 0, 2, 4, 10.0).gather([5], all_needed=True) == [[5], None]
    assert clock.now == pytest.approx(1010.4, abs=0.2), "it will not come back"


def test_the_chief_waits_only_so_long(clock):
    servers = Servers({"live": [0, 1], "reports": {"1": {"failed": "out of memory"}}})
    assert WorkerReport(servers, 0, 2, 4, 10.0).gather([5]) == [[5], None]
    assert clock.now == pytest.approx(1010.0, abs=0.11)


def test_a_summary_has_a_number_for_each_worker():
    servers = Servers()
    servers.report = {"counted": {"1": {"pushes": 5, "staleness": {"0": 5}, "clock_lead_max": 2, "refused": 1}}}
    servers.retries = 3
    assert WorkerReport(servers, 0, 2, 4, 10.0).summary() == {
        "max_staleness": 4,
        "pushes_per_worker": [0, 5],
        "not_finite_per_worker": [0, 0],
        "refused_pushes_per_worker": [0, 1],
        "staleness_histogram": [{}, {"0": 5}],
        "clock_lead_max": [0, 2],
        "call_retries": 3,
    }
