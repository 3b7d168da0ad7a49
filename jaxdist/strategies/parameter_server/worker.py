"""Workers that share parameters through servers, as far apart as a staleness bound lets them drift.

    worker       | gradient c        | gradient c+1      | gradient c+2
    network            push c-1, pull       push c, pull        ...             overlapped (bound not 0)

Policy only: what travels, and when; the mechanism and its contract are in `jaxdist.ps`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import PeerError, Preempted, UsageError
from jaxdist.optim import momentum
from jaxdist.parallel.flat_layout import pack, unpack
from jaxdist.ps import (
    Claim,
    Client,
    Fenced,
    PinnedVersion,
    Progress,
    Pulled,
    Refused,
    largest_staleness,
)
from jaxdist.state import Position, TrainState, Tree, flatten
from jaxdist.state import unflatten as unflatten_tree
from jaxdist.state.position import indices
from jaxdist.strategies.base import Strategy
from jaxdist.strategies.parameter_server.flat_model import FlatModel
from jaxdist.task import Batch, Metrics, Task


@dataclasses.dataclass(frozen=True)
class PulledState:
    """Parameters and statistics as they were pulled, one device array a server, and what the servers had applied."""

    pieces: tuple[jax.Array, ...]
    version: int
    progress: Progress
    caller: Any  # the session in which it was pulled

    @property
    def arrays(self) -> Tree:
        return {"params": self.pieces}


def snapshot(client: Client, model: FlatModel) -> PulledState:
    """One and the same version of all servers, to evaluate; stops nobody."""

    def read(held: PinnedVersion) -> PulledState:
        return PulledState(model.put(held.pieces()), held.progress.version, held.progress, held.caller)

    return client.read_one_version(read)


@dataclasses.dataclass
class _Window:
    """What was measured since the last train row."""

    staleness: list[int] = dataclasses.field(default_factory=list)
    clock_lead_max: int = 0
    wait_seconds: float = 0.0  # the devices had nothing to do
    compute_seconds: float = 0.0
    steps: int = 0
    not_finite: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


def is_asynchronous(settings: Mapping[str, Any]) -> bool:
    """Whether each push is an update of its own under these settings of a strategy."""
    bounded = settings["staleness_policy"] == "fixed" and settings["max_staleness"] == 0
    return settings["name"] == "parameter_server" and not bounded


class ParameterServer(Strategy):
    """Each worker takes gradients on its own devices and talks to servers alone.

    Args:
      global_batch_size: divided by the number of workers: the examples of one push.
      max_staleness: -1 none, 0 rounds of one gradient a worker, s > 0 clock lead at most s.
      scale_learning_rate: divides the rate by the number of workers, where each push is an update of its own.
      overlap: push and pull while the next gradient is computed (not at bound 0).
      nonfinite: 'refuse' drops a gradient with NaN or Inf and counts it, 'stop' ends the run.
      phase: of a run in phases; workers wait for the chief to begin it.
      reserve: what the run has reserved the servers by.
      momentum_ramp: (examples_seen, examples) over which the momentum grows to its value; the chief's counts.
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
        facts: Mapping[str, Any],
        timeouts: Mapping[str, float],
        settings: Mapping[str, Any],
        security: Security = OPEN,
        phase: int = 0,
        reserve: str = "",
        momentum_ramp: tuple[int, int] | None = None,
    ) -> None:
        self.task = task
        self._momentum_ramp = momentum_ramp
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
        self._model = FlatModel(task, len(server_addresses))
        self._layout = self._model.layout
        self._client = Client(
            server_addresses,
            process_id,
            self._layout,
            facts=facts,
            security=security,
            timeout_seconds=timeouts["timeout_seconds"],
            connect_seconds=timeouts["connect_timeout_seconds"],
            phase=phase,
            reserve=reserve,
        )
        self._claims: collections.deque[Claim] = collections.deque()
        self._network = ThreadPoolExecutor(1, "push-pull")
        self._job: Future[PulledState] | None = None
        self._refresh = True  # what was pulled is old, or was not pulled to start a step
        self._away_since = Progress()
        self._ready_at = 0.0
        self._window = _Window()
        self._closed = False
        self._left = False

    # State.

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> PulledState:
        """The chief puts the state on the servers and lets the workers in; the others wait for that."""
        self._client.check_servers()
        if self.is_chief:
            vectors = {
                "params": self._vector(self._layout.params, canonical.params),
                "stats": self._vector(self._layout.stats, canonical.model_state),
            }
            for slot, tree in canonical.opt_state.items():
                whole = isinstance(tree, dict)
                vectors[f"slot/{slot}"] = self._slot_vector(tree) if whole else np.asarray(tree)
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
                    "snapshot_seconds": self._settings["snapshot_seconds"],
                    "connect_seconds": self._timeouts["connect_timeout_seconds"],
                    "momentum_ramp": self._momentum_ramp,
                },
                vectors,
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

    def _slot_vector(self, tree: Tree) -> np.ndarray:
        """Zeros stand for the parameters that a slot lacks."""
        flat = {name: np.asarray(leaf, self._layout.dtype) for name, leaf in flatten(tree).items()}
        missing = {t.name: np.zeros(t.shape, self._layout.dtype) for t in self._layout.params if t.name not in flat}
        return pack(self._layout.params, flat | missing)

    @staticmethod
    def _vector(tensors: Any, tree: Tree) -> np.ndarray:
        return pack(tensors, {n: np.asarray(leaf) for n, leaf in flatten(tree).items()})

    def _placed(self, pulled: Pulled) -> PulledState:
        return PulledState(self._model.put(pulled.pieces), pulled.version, pulled.progress, pulled.caller)

    def export_state(self, state: PulledState) -> TrainState:
        """One version of all servers; nobody stops. For the chief."""
        self._wait_for_network()
        return self._client.read_one_version(self._canonical)

    def _canonical(self, held: PinnedVersion) -> TrainState:
        dtype = self._layout.dtype
        opt_state: Tree = {}
        like = self.task.slot_shapes()
        for slot in held.slots:
            if isinstance(like[slot], dict):
                every = unpack(self._layout.params, held.vector(f"slot/{slot}", dtype))
                kept = {name: every[name].astype(leaf.dtype, copy=False) for name, leaf in flatten(like[slot]).items()}
                opt_state[slot] = unflatten_tree(kept)
            else:  # a number is the same on all servers
                opt_state[slot] = held.vector(f"slot/{slot}", like[slot].dtype)[0:1].reshape(()).copy()
        arrays = {
            "params": self._tree(self._layout.params, held.vector("params", dtype)),
            "model_state": self._tree(self._layout.stats, held.vector("stats", dtype)),
            "opt_state": opt_state,
        }
        return TrainState.of(arrays, held.progress.version, Position(held.progress.examples_seen, held.pending))

    @staticmethod
    def _tree(tensors: Any, vector: np.ndarray) -> Tree:
        return unflatten_tree(unpack(tensors, vector))

    def progress(self, state: PulledState) -> tuple[int, int]:
        return state.progress.version, state.progress.examples_seen

    # Steps.

    def positions(self, start: Position, total_examples: int) -> Iterator[np.ndarray]:
        """Whatever server 0 hands out; it knows where the run stands and how long it is."""
        while (claim := self._client.claim()) is not None:
            self._claims.append(claim)
            yield indices(claim.ranges)

    def stop_positions(self) -> None:
        self._client.stop_claiming()

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
            self._wait_for_network()
            state = self._pull_to_start(claim)
            elsewhere = max(state.progress.examples_seen - self._away_since.examples_seen, 0)
            self._refresh, self._job = False, None
        dispatched = time.perf_counter()
        parts, metrics = self._model.gradient(state.pieces, batch)
        job = self._network.submit(self._exchange, state, claim, parts, metrics, dispatched)
        before, self._job = self._job, job
        if not self._overlap:
            state = job.result()
        elif before is not None:
            state = before.result()
        self._window.steps += 1
        now = self._since(begun, state.progress) | {"stop": stop, "elsewhere": elsewhere}
        return state, now

    @staticmethod
    def _since(before: Progress, after: Progress) -> Metrics:
        """What was applied in between, of all workers; nothing after the servers have gone back."""
        names = ("loss_sum", "correct", "count")
        if after.version < before.version:
            return dict.fromkeys(names, 0.0)
        return {n: getattr(after, n) - getattr(before, n) for n in names}

    def _pull_to_start(self, claim: Claim | None) -> PulledState:
        number = claim.number if claim is not None else 0
        return self._placed(self._client.pull(start=True, ahead=int(self._overlap), claim=number))

    def _exchange(
        self, state: PulledState, claim: Claim, parts: Sequence[jax.Array], metrics: Metrics, dispatched: float
    ) -> PulledState:
        """Pushes a gradient when it is there, and pulls for the step after. Runs on the network thread, in order."""
        buffers = [np.asarray(p) for p in parts]  # waits for the device
        ready = time.perf_counter()
        self._window.compute_seconds += ready - max(dispatched, self._ready_at)
        self._window.wait_seconds += max(dispatched - self._ready_at, 0.0) if self._ready_at else 0.0
        self._ready_at = ready
        seen = state.progress.examples_seen
        if claim.caller != self._client.caller:
            self._leave_off()
            return self._pull_to_start(None)
        try:
            commit: dict[str, Any] = {"pulled_version": state.version}
            if bool(metrics["finite"]):
                commit["learning_rate"] = self.task.learning_rate(seen) * self.learning_rate_scale
                commit["momentum_cut"] = momentum.cut(self._momentum_ramp, seen)
                commit |= {n: float(metrics[n]) for n in ("loss_sum", "correct", "count")}
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
        self._window.staleness.append(pulled.staleness or 0)
        self._window.clock_lead_max = max(self._window.clock_lead_max, pulled.clock_lead)
        return self._placed(pulled)

    def _leave_off(self) -> None:
        """What was pulled is of no use for the next step; until it begins, this process does not train."""
        if not self._refresh:
            self._away_since = self._client.progress
        self._refresh, self._ready_at = True, 0.0

    def _note_not_finite(self, state: PulledState) -> None:
        """A gradient with NaN or Inf reaches no server: its examples are passed over."""
        self._window.not_finite += 1
        text = f"a gradient taken at version {state.version} is not finite (NaN or Inf)"
        if self._settings["nonfinite"] == "stop":
            raise PeerError(f"{text}; strategy.nonfinite=stop ends the run")
        logging.warning("%s: it is not pushed.", text)

    def _wait_for_network(self) -> None:
        """Also raises what went wrong there."""
        if self._job is not None:
            self._job.result()

    def drain(self, state: PulledState) -> tuple[PulledState, Metrics | None]:
        begun = state.progress
        if self._job is not None:
            state = self._job.result()
        if not self.is_chief:
            return state, None
        self._client.close_claims()
        state = snapshot(self._client, self._model)
        return state, self._since(begun, state.progress) | {"stop": False}

    # Besides the steps.

    def snapshot(self, state: PulledState) -> PulledState:
        return snapshot(self._client, self._model)

    def eval_step(self, state: PulledState, batch: Batch) -> Metrics:
        return self._model.evaluate(state.pieces, batch)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        away = name in ("evaluate", "checkpoint") and self._asynchronous and not self._closed and not self._left
        if not away:
            yield
            return
        self._wait_for_network()
        self._leave_off()
        self._beat(away=True)
        try:
            yield
        finally:
            if not self._left:
                self._beat(away=False)

    def _beat(self, away: bool) -> None:
        self._client.in_session(lambda _: self._client.beat(away))

    def row(self) -> dict[str, Any]:
        window, self._window = self._window, _Window()
        sent, received = self._client.bytes_sent, self._client.bytes_received
        self._window.bytes_sent, self._window.bytes_received = sent, received
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

    def gather(self, report: list[Any]) -> list[list[Any]]:
        if not self.is_chief:
            self._left = True
            self._client.leave(report)
            return [report]
        deadline = time.monotonic() + self._timeouts["timeout_seconds"]
        while time.monotonic() < deadline:
            self._beat(away=True)
            if self._client.report.get("live", []) in ([], [0]):
                break
            time.sleep(0.1)
        reports = self._client.report.get("reports", {}) | {"0": report}
        return [reports.get(str(w)) or [None] * len(report) for w in range(self._workers)]

    def summary(self) -> dict[str, Any]:
        counted = self._client.report.get("counted", {})
        every = [counted.get(str(w), {}) for w in range(self._workers)]
        return {
            "max_staleness": self._high,
            "pushes_per_worker": [c.get("pushes", 0) for c in every],
            "not_finite_per_worker": [c.get("not_finite", 0) for c in every],
            "refused_pushes_per_worker": [c.get("refused", 0) for c in every],
            "staleness_histogram": [c.get("staleness", {}) for c in every],
            "clock_lead_max": [c.get("clock_lead_max", 0) for c in every],
            "call_retries": self._client.retries,
        }

    def end_phase(self) -> dict[str, Any]:
        """The chief waits until the others have left; then the servers forget the phase, and stay."""
        self.gather([])
        found = self.summary()
        if self.is_chief:
            reports = self._client.report.get("reports", {})
            left = {0, *(int(worker) for worker, report in reports.items() if report == [])}
            self.lost_workers = tuple(sorted(set(range(self._workers)) - left))
            self._client.end_phase()
        self._closed = True
        self._disconnect()
        return found

    def close(self, error: BaseException | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(Exception):
            if self.is_chief:
                self._client.end(*ending(error))
            elif not self._left:
                self._client.leave(None if error is None else {"failed": str(error)})
        self._disconnect()

    def _disconnect(self) -> None:
        self._client.close()
        self._network.shutdown(wait=False, cancel_futures=True)


def ending(error: BaseException | None) -> tuple[int, str]:
    """(exit code, reason) of a run whose chief ends with `error`."""
    if error is None:
        return 0, ""
    code = 75 if isinstance(error, Preempted) else 2 if isinstance(error, UsageError) else 1
    text = str(error) if isinstance(error, Preempted | UsageError | PeerError) else f"{type(error).__name__}: {error}"
    return code, f"worker 0 (the chief): {text}" if code != 75 else text
