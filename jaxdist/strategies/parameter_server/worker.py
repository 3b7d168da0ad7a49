"""Workers that share parameters through servers, as far apart as a staleness bound lets them drift.

    worker       | gradient c        | gradient c+1      | gradient c+2
    network            push c-1, pull       push c, pull        ...             overlapped (bound not 0)

Policy only: what travels, and when; the mechanism and its contract are in `jaxdist.ps`.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import PeerError, Unhealthy
from jaxdist.optim import momentum
from jaxdist.profiling.windows import Window
from jaxdist.ps import (
    Claim,
    Client,
    Fenced,
    Progress,
    Pulled,
    Refused,
    largest_staleness,
)
from jaxdist.ps.reservation import run_ending
from jaxdist.runtime import profiler
from jaxdist.state import Position, TrainState
from jaxdist.state.position import indices
from jaxdist.strategies.base import Strategy
from jaxdist.strategies.parameter_server.flat_model import FlatModel
from jaxdist.strategies.parameter_server.report import Exchanged, WorkerReport
from jaxdist.strategies.parameter_server.state import PulledState, snapshot, to_canonical, to_vectors
from jaxdist.strategies.positions import Positions
from jaxdist.task import Batch, Metrics, Task


class ClaimedPositions(Positions):
    """Each claim's positions as server 0 hands it out; `claims` takes the claims, for the steps that push them."""

    waits_for = "server"

    def __init__(self, client: Client, claims: collections.deque[Claim]) -> None:
        self._client, self._claims = client, claims

    def __iter__(self) -> Iterator[np.ndarray]:
        while (claim := self._client.claim()) is not None:
            self._claims.append(claim)
            yield indices(claim.ranges)

    def close(self) -> None:
        self._client.stop_claiming()


class ParameterServer(Strategy):
    """Each worker takes gradients on its own devices and exchanges them with servers alone.

    Args:
      global_batch_size: divided by the number of workers: the examples of one push.
      max_staleness: -1 none, 0 rounds of one gradient a worker, s > 0 clock lead at most s.
      scale_learning_rate: divides the rate by the number of workers, where each push is an update of its own.
      overlap: push and pull while the next gradient is computed (not at bound 0).
      phase: of a run in phases; workers wait for the chief to begin it.
      reserve: what the run has reserved the servers by.
      momentum_ramp: (examples_seen, examples) over which the momentum grows to its value; the chief's counts.
      profile: what the servers profile, too; the chief's counts. data_parts: as `BuildContext` has it.
    """

    collective = False

    def __init__(
        self,
        task: Task,
        *,
        global_batch_size: int,
        process_id: int,
        num_processes: int,
        server_addresses: Sequence[str],
        signature: Mapping[str, Any],
        timeouts: Mapping[str, float],
        settings: Mapping[str, Any],
        security: Security = OPEN,
        phase: int = 0,
        reserve: str = "",
        momentum_ramp: tuple[int, int] | None = None,
        profile: Sequence[Window] = (),
        data_parts: int = 0,
    ) -> None:
        self.task, self._data_parts = task, data_parts
        self._nonfinite = {"refuse": "skip"}.get(settings["nonfinite"], settings["nonfinite"] or task.nonfinite)
        self._momentum_ramp, self._profile = momentum_ramp, profile
        self.is_chief = process_id == 0
        self._workers = num_processes
        self._bound = self._high = int(settings["max_staleness"])
        if settings["staleness_policy"] == "dynamic":
            self._bound, self._high = settings["staleness_range"]
        self._asynchronous = self._bound != 0
        self._share = global_batch_size // num_processes
        self.examples_per_update = self._share if self._asynchronous else global_batch_size
        self._settings, self._timeouts = settings, timeouts
        self._overlap = bool(settings["overlap"]) and self._asynchronous
        scaled = settings["scale_learning_rate"] and self._asynchronous and num_processes > 1
        self.learning_rate_scale = 1 / num_processes if scaled else 1.0
        self._model = FlatModel(task, len(server_addresses), clips=self._asynchronous)
        self._layout = self._model.layout
        self._client = Client(
            server_addresses,
            process_id,
            self._layout,
            signature=signature,
            security=security,
            timeout_seconds=timeouts["timeout_seconds"],
            connect_seconds=timeouts["connect_timeout_seconds"],
            phase=phase,
            reserve=reserve,
        )
        self.report: WorkerReport = WorkerReport(
            self._client, process_id, num_processes, self._high, timeouts["timeout_seconds"]
        )
        self._claims: collections.deque[Claim] = collections.deque()
        self._network = ThreadPoolExecutor(1, "push-pull")
        self._job: Future[Exchanged] | None = None
        self._refresh = True  # what was pulled is old, or was not pulled to start a step
        self._away_since = Progress()
        self._ready_at = 0.0
        self._closed = False

    # State.

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> PulledState:
        """The chief puts the state on the servers and lets the workers in; the others wait for that."""
        self._client.check_servers()
        if self.is_chief:
            place = canonical.updates, canonical.examples_seen
            self._client.begin(
                {
                    "max_staleness": self._bound,
                    "staleness_high": self._high,
                    "num_workers": self._workers,
                    "share": self._share,
                    "total_examples": total_examples,
                    "updates": canonical.updates,
                    "examples_seen": canonical.examples_seen,
                    "pending": canonical.pending,
                    "lease_seconds": self._settings["lease_seconds"],
                    "timeout_seconds": self._timeouts["timeout_seconds"],
                    "snapshot_seconds": self._settings["snapshot_seconds"],
                    "connect_seconds": self._timeouts["connect_timeout_seconds"],
                    "momentum_ramp": self._momentum_ramp,
                    "data_parts": self._data_parts,
                    "clip_global_norm": 0.0 if self._asynchronous else self.task.clip_global_norm,
                    "profile": [w.in_updates(*place, self.examples_per_update) for w in self._profile],
                },
                to_vectors(canonical, self._layout),
            )
        self._momentum_ramp = self._client.join()["momentum_ramp"]
        self._away_since = self._client.progress
        self._log_what_is_used()
        # No step before this process's first claim: at bound 0 its first round may not be the next.
        return self._placed(self._client.pull(start=False))

    def _log_what_is_used(self) -> None:
        words = {-1: "unbounded", 0: "0: rounds of one gradient from each worker"}.get(self._bound, str(self._bound))
        if self._high > self._bound:
            words = f"{self._bound} to {self._high} with the workers' pace"
        divided = f"divided by {self._workers}" if self.learning_rate_scale < 1 else "not divided"
        most = largest_staleness(self._high, self._workers, self._overlap)
        logging.info(
            "Parameter server: max_staleness %s (a push is at most %s versions late); %d examples a push; learning "
            "rate %s (strategy.scale_learning_rate); push and pull %s the computation.",
            words,
            "any number of" if most is None else most,
            self._share,
            divided,
            "overlap" if self._overlap else "do not overlap",
        )

    def _placed(self, pulled: Pulled) -> PulledState:
        return PulledState.of(pulled, self._model)

    def export_state(self, state: PulledState) -> TrainState:
        """One version of all servers; nobody stops. For the chief."""
        self._wait_for_network()
        slots = self.task.slot_shapes()
        return self._client.read_one_version(lambda pinned: to_canonical(pinned, self._layout, slots))

    # Steps.

    def positions(self, start: Position, total_examples: int) -> ClaimedPositions:
        """Whatever server 0 hands out; it knows where the run stands and how long it is."""
        return ClaimedPositions(self._client, self._claims)

    def place(self, batch: Batch) -> Batch:
        return self._model.put_batch(batch)

    def train_step(self, state: PulledState, batch: Batch, stop: bool = False) -> tuple[PulledState, Metrics]:
        claim = self._claims.popleft()
        begun = state.progress
        elsewhere = 0
        if claim.caller != self._client.caller:  # claimed in a session that is over
            self._leave_off()
            return state, self._since(begun, begun) | {"stop": stop}
        if self._refresh or state.caller != claim.caller:
            with self.report.waiting(), profiler.span(profiler.SERVER_WAIT):
                self._wait_for_network()
                state = self._pull_to_start(claim)
            elsewhere = max(state.progress.examples_seen - self._away_since.examples_seen, 0)
            self._refresh, self._job = False, None
        dispatched = time.perf_counter()
        parts, metrics = self._model.gradient(state.buffers, batch)
        job = self._network.submit(self._exchange, state, claim, parts, metrics, dispatched)
        before, self._job = self._job, job
        awaited = before if self._overlap else job
        if awaited is not None:
            with profiler.span(profiler.SERVER_WAIT):
                state = self.report.result(awaited)
        self.report.window.steps += 1
        now = self._since(begun, state.progress) | {"stop": stop, "elsewhere": elsewhere}
        return state, now

    def _since(self, before: Progress, after: Progress) -> Metrics:
        """What was applied in between, of all workers; nothing after the servers have gone back."""
        names = self.task.objective.training_sums
        if after.version < before.version:
            return dict.fromkeys(names, 0.0)
        begun = before.sums or (0.0,) * len(names)  # nothing was applied yet
        return {n: b - a for n, a, b in zip(names, begun, after.sums or begun, strict=True)}

    def _pull_to_start(self, claim: Claim | None) -> PulledState:
        number = claim.number if claim is not None else 0
        return self._placed(self._client.pull(start=True, ahead=int(self._overlap), claim=number))

    def _exchange(
        self, state: PulledState, claim: Claim, parts: Sequence[jax.Array], metrics: Metrics, dispatched: float
    ) -> Exchanged:
        """Pushes a gradient when it is there, and pulls for the step after. Runs on the network thread, in order."""
        buffers = [np.asarray(p) for p in parts]  # waits for the device
        ready = time.perf_counter()
        self.report.window.compute_seconds += ready - max(dispatched, self._ready_at)
        self.report.window.wait_seconds += max(dispatched - self._ready_at, 0.0) if self._ready_at else 0.0
        self._ready_at = ready
        return Exchanged(self._push_and_pull(state, claim, buffers, metrics), ready, time.perf_counter())

    def _push_and_pull(
        self, state: PulledState, claim: Claim, buffers: list[np.ndarray], metrics: Metrics
    ) -> PulledState:
        seen = state.progress.examples_seen
        if claim.caller != self._client.caller:
            self._leave_off()
            return self._pull_to_start(None)
        try:
            commit: dict[str, Any] = {"pulled_version": state.version}
            if bool(metrics["finite"]) or self._nonfinite == "warn":
                commit["learning_rate"] = self.task.learning_rate(seen) * self.learning_rate_scale
                commit["momentum_cut"] = momentum.cut(self._momentum_ramp, seen)
                commit["sums"] = [float(metrics[n]) for n in self.task.objective.training_sums]
            else:
                self._note_not_finite(state)
                commit["skip"], buffers = True, []
            pulled = self._client.push_pull(claim, buffers, commit, ahead=int(self._overlap))
        except Fenced as e:
            logging.warning("A push was not applied: %s", e)
            self._client.rejoin(claim.caller)
            self._leave_off()
            return self._pull_to_start(None)
        except Refused as e:
            raise PeerError(f"the parameter server refused a push: {e}") from None
        self.report.window.staleness.append(pulled.staleness or 0)
        self.report.window.clock_lead_max = max(self.report.window.clock_lead_max, pulled.clock_lead)
        return self._placed(pulled)

    def _leave_off(self) -> None:
        """What was pulled is of no use for the next step; until it begins, this process does not train."""
        if not self._refresh:
            self._away_since = self._client.progress
        self._refresh, self._ready_at = True, 0.0

    def _note_not_finite(self, state: PulledState) -> None:
        """A gradient with NaN or Inf reaches no server: its examples are passed over."""
        self.report.window.not_finite += 1
        text = f"a gradient taken at version {state.version} is not finite (NaN or Inf)"
        if self._nonfinite == "stop":
            raise Unhealthy(
                f"{text[0].upper()}{text[1:]}: health.nonfinite=stop ends the run; skip leaves such gradients out."
            )
        logging.warning("%s: it is not pushed.", text)

    def _wait_for_network(self) -> None:
        """Also raises what went wrong there."""
        if self._job is not None:
            self._job.result()

    def drain(self, state: PulledState) -> tuple[PulledState, Metrics | None]:
        begun = state.progress
        if self._job is not None:
            state = self._job.result().state
        if not self.is_chief:
            return state, None
        self._client.close_claims()
        state = snapshot(self._client, self._model)
        return state, self._since(begun, state.progress) | {"stop": False}

    # Besides the steps.

    def eval_step(self, state: PulledState, batch: Batch) -> Metrics:
        return self._model.evaluate(state.buffers, batch)

    @contextlib.contextmanager
    def away(self, state: PulledState, activity: str) -> Iterator[PulledState]:
        """Nobody waits for a worker that is away, unless the bound is 0."""
        is_away = self._asynchronous and not self._closed and not self.report.has_left
        if is_away:
            self._wait_for_network()
            self._leave_off()
            self._client.heartbeat_away(True)
        try:
            yield snapshot(self._client, self._model, to_evaluate=True) if activity == "evaluate" else state
        finally:
            if is_away and not self.report.has_left:
                self._client.heartbeat_away(False)

    def updates_of_all(self) -> int:
        return self._client.progress.version

    def close(self, error: BaseException | None = None, *, run_goes_on: bool = False) -> None:
        """Where the run goes on, the chief knows that the others have left; the servers forget the phase, and stay."""
        if self._closed:
            return
        self._closed = True
        if run_goes_on:
            if self.is_chief:
                self._client.end_phase()
        else:
            with contextlib.suppress(Exception):
                if self.is_chief:
                    self._client.end(*run_ending(error))
                elif not self.report.has_left:
                    why = None if error is None else {"failed": str(error), "ends_run": isinstance(error, Unhealthy)}
                    self._client.leave(why, 2.0 if error is not None else None)  # the servers may be what was lost
        self._client.close()
        self._network.shutdown(wait=False, cancel_futures=True)
