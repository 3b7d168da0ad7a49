"""What a worker of the parameter servers measures, and what the servers have counted of all workers."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from jaxdist.ps import Client
from jaxdist.strategies.parameter_server.state import PulledState
from jaxdist.strategies.report import Report, Wait


@dataclasses.dataclass
class Window:
    """What was measured since the last train row."""

    staleness: list[int] = dataclasses.field(default_factory=list)
    clock_lead_max: int = 0
    wait_seconds: float = 0.0  # the devices had nothing to do
    compute_seconds: float = 0.0
    steps: int = 0
    not_finite: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Exchanged(NamedTuple):
    """What a push and pull has brought, and the seconds of `time.perf_counter()` between which it went on."""

    state: PulledState
    begun: float
    ended: float


class WorkerReport(Report):
    """Of one worker.

    Args:
      worker, workers: its number, of how many.
      max_staleness: the bound, or the highest of a range.
      timeout_seconds: how long the chief waits for the others to leave.

    Attributes:
      window: filled in by the worker.
      has_left: the worker has left the run in good order.
    """

    def __init__(self, client: Client, worker: int, workers: int, max_staleness: int, timeout_seconds: float) -> None:
        self._client, self._worker, self._workers = client, worker, workers
        self._max_staleness, self._timeout = max_staleness, timeout_seconds
        self.window = Window()
        self.has_left = False
        self._visible = self._hidden = 0.0  # seconds of the servers' calls since the last `waits`

    def result(self, job: Future[Exchanged]) -> PulledState:
        """What a push and pull has brought. Blocks for it, and for the gradient before it; the latter is no waiting for
        a server."""
        asked = time.perf_counter()
        state, begun, ended = job.result()
        blocked = max(min(ended, time.perf_counter()) - max(asked, begun), 0.0)
        self._visible += blocked
        self._hidden += ended - begun - blocked
        return state

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what a step asks of the servers itself."""
        begin = time.perf_counter()
        yield
        self._visible += time.perf_counter() - begin

    def waits(self) -> Mapping[str, Wait]:
        """'server': until claims, pushes and pulls were answered."""
        wait = Wait(self._visible, self._hidden)
        self._visible = self._hidden = 0.0
        return {"server": wait}

    def row(self) -> dict[str, Any]:
        window, self.window = self.window, Window()
        sent, received = self._client.bytes_sent, self._client.bytes_received
        self.window.bytes_sent, self.window.bytes_received = sent, received
        steps = max(window.steps, 1)
        return {
            "staleness_mean": round(float(np.mean(window.staleness)), 3) if window.staleness else 0.0,
            "staleness_max": max(window.staleness, default=0),
            "clock_lead_max": window.clock_lead_max,
            "bytes_sent": sent - window.bytes_sent,
            "bytes_received": received - window.bytes_received,
            "wait_ms": round(1000 * window.wait_seconds / steps, 3),
            "compute_ms": round(1000 * window.compute_seconds / steps, 3),
            "not_finite": window.not_finite,
        }

    def events(self) -> list[dict[str, Any]]:
        return self._client.take_events()

    def evaluations(self) -> list[dict[str, Any]] | None:
        taken = self._client.take_evaluations()
        return taken if taken or self._client.evaluator else None

    def gather(self, own: list[Any], *, all_needed: bool = False) -> list[list[Any] | None]:
        """The others leave with their lists; the chief waits until they have, or are lost: for timeout_seconds at most,
        in which one may come back whose link was down."""
        if self._worker != 0:
            self.has_left = True
            self._client.leave(own)
            return [own]
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            self._client.heartbeat_away(True)
            gone = self._client.report.get("live", []) in ([], [0])
            if gone and (not all_needed or len(self._client.report.get("reports", {})) >= self._workers - 1):
                break
            time.sleep(0.1)
        left = self._client.report.get("reports", {}) | {"0": own}
        found = (left.get(str(worker)) for worker in range(self._workers))
        return [one if isinstance(one, list) else None for one in found]

    def summary(self) -> dict[str, Any]:
        counted = self._client.report.get("counted", {})
        every = [counted.get(str(w), {}) for w in range(self._workers)]
        return {
            "max_staleness": self._max_staleness,
            "pushes_per_worker": [c.get("pushes", 0) for c in every],
            "not_finite_per_worker": [c.get("not_finite", 0) for c in every],
            "refused_pushes_per_worker": [c.get("refused", 0) for c in every],
            "staleness_histogram": [c.get("staleness", {}) for c in every],
            "clock_lead_max": [c.get("clock_lead_max", 0) for c in every],
            "call_retries": self._client.retries,
        }
