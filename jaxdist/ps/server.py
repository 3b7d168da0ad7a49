"""A parameter server: one process, one shard. Server 0 also orders everything (see `sequencer.py`).

RPC threads     decode, check, stage; wait on one condition
    applier         applies operations to the shard, one at a time, in their order, where no RPC thread waits for them
replicators     server 0 alone, one for each other server: send it the operations
monitor         server 0 alone: leases, snapshots, restarted servers
snapshot        writes files
"""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import json
import logging
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxdist.comm.security import OPEN, Security
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire
from jaxdist.ps.layout_header import layout_from_header
from jaxdist.ps.replication import OperationReplicator
from jaxdist.ps.rpc import Handler, Lost, Payload, Refused, Service, Superseded
from jaxdist.ps.sequencer import Ended, Fenced, NotNow, Sequencer, Settings
from jaxdist.ps.shard import Shard, UpdateRule, Values, both, contents
from jaxdist.ps.signature import differences
from jaxdist.ps.snapshots import Snapshots
from jaxdist.state.position import bounds

LONG_POLL_SECONDS = 2.0
HEARTBEAT_SECONDS = 0.5
RESERVED_SECONDS = 15.0
EMPTY: Payload = (pb.Empty(), b"")


class ParameterServer:
    """Serves from construction until `wait` returns.

    Args:
      index, addresses: which of the servers this is.
      rule: the optimizer; elementwise.
      signature: the run signature: what every process of the run must have alike.
      folder: for snapshots, on this host's own disk.
      security: what callers must have.
      idle_seconds: without a run, or without a word from server 0, it gives up after this.
      on_update: called after each applied update with its version (faults are injected here).
      drop_reply: whether to lose the reply to the push that made a version (for tests).

    Raises:
      OSError: the address cannot be bound.
      ValueError: the rule is not elementwise.
    """

    def __init__(
        self,
        index: int,
        addresses: Sequence[str],
        rule: UpdateRule,
        *,
        signature: Mapping[str, Any],
        folder: str | pathlib.Path,
        security: Security = OPEN,
        idle_seconds: float = 300.0,
        on_update: Callable[[int], None] = lambda version: None,
        drop_reply: Callable[[int], bool] = lambda version: False,
    ) -> None:
        self.index, self.addresses = index, list(addresses)
        self._rule = rule
        self._signature = json.loads(json.dumps(dict(signature)))  # as the others' will look when they have been sent
        self._idle_seconds, self._on_update, self._drop_reply = idle_seconds, on_update, drop_reply
        self._snapshots = Snapshots(folder)
        self._boot = uuid.uuid4().hex
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # something that a caller may wait for
        self._work = threading.Condition(lock)  # for the applier: there is an operation
        self._run, self._incarnation = "", 0
        self._shard: Shard | None = None
        self._sequencer: Sequencer | None = None
        self._reserved, self._reserved_at = "", -RESERVED_SECONDS
        self._runs_forgotten = 0  # how many
        self._begun = False
        self._committed = 0  # the version to go back to
        self._draining = False  # the thread that emits operations is about to apply them
        self._rolling = False  # back to a snapshot; nothing is served meanwhile
        self._failure = ""
        self._queue: collections.deque[pb.Operation] = collections.deque()
        self._received = 0  # number of the next operation expected from server 0
        self._applying = threading.Lock()
        self._heard = time.monotonic()
        self._ended: Ended | None = None
        self._end_asked: Ended | None = None
        self._closing = threading.Event()
        self._writer = ThreadPoolExecutor(1, "snapshot")
        self._others: list[OperationReplicator] = []
        self._snapshot_asked: tuple[int, dict[str, Any], float] | None = None  # asked for, not yet on every disk
        handlers: dict[str, Handler] = {
            "Status": self._status,
            "Begin": self._begin,
            "Load": self._load,
            "Push": self._push,
            "Pull": self._pull,
            "Join": self._join,
            "Claim": self._claim,
            "PushPull": self._push_pull,
            "Heartbeat": self._heartbeat,
            "Pin": self._pin,
            "Post": self._post,
            "Leave": self._leave,
            "Close": self._close,
            "End": self._end,
            "Apply": self._apply,
            "Restore": self._restore,
        }
        if index == 0:
            self._others = [OperationReplicator(a, security, self._ask_rollback) for a in self.addresses[1:]]
        self._rollback_asked = False
        stored = self._snapshots.load_run() if index == 0 else None
        if stored is not None and stored["servers"] != len(self.addresses):
            words = "There is a snapshot of %d servers here; it is of no use to %d."
            logging.warning(words, stored["servers"], len(addresses))
            stored = None
        if stored is not None:
            self._run, self._incarnation = stored["run"], stored["incarnation"]
            self._rolling = self._rollback_asked = True
            logging.info("Found the snapshot of version %d; going back to it.", stored["sequencer"]["version"])
        self._service = Service(self.addresses[index], handlers, security)
        self.port = self._service.port
        threads = [self._apply_forever, *([self._monitor] if index == 0 else []), *(f.run for f in self._others)]
        for work in threads:
            threading.Thread(target=self._guard(work), name=work.__qualname__, daemon=True).start()

    def wait(self) -> Ended:
        """Blocks until the run has ended; then closes. The reason says how to exit.

        Raises:
          TimeoutError: nobody came, or server 0 was not heard of any more.
        """
        while True:
            with self._changed:
                self._changed.wait(HEARTBEAT_SECONDS)
                ended, quiet = self._ended, time.monotonic() - self._heard
            if ended is not None:
                break
            if quiet > self._idle_seconds and (self._sequencer is None or self._sequencer.ended):
                self.close()
                whom = "the chief" if not self._run else "server 0"
                raise TimeoutError(f"nothing was heard from {whom} for {quiet:.0f} s")
        if ended.code in (0, 75):
            self._snapshots.clear()
        self.close()
        return ended

    def stop_if_idle(self) -> None:
        """Ends where no run goes on. Safe in a signal handler: takes no lock."""
        if self.index == 0:
            lives = self._sequencer is not None and self._sequencer.chief_lives
        else:
            lives = bool(self._run) and time.monotonic() - self._heard < 10 * HEARTBEAT_SECONDS
        if not (lives or self._is_reserved()):
            self._ended = Ended(75, "stopped while no run went on")

    def _is_reserved(self) -> bool:
        return time.monotonic() - self._reserved_at < RESERVED_SECONDS

    def _check_reservation(self, reserve: str) -> None:
        """Refuses callers of another run than the one that has reserved this server. Called with the lock."""
        if self._is_reserved() and reserve != self._reserved:
            raise ValueError(f"server {self.index} is reserved by another run, which is alive")

    def _reserve(self, reserve: str) -> None:
        """From a run that will need this server. Called with the lock."""
        if self._is_reserved() and reserve != self._reserved:
            raise NotNow("it is reserved by another run, which was alive a moment ago")
        if reserve != self._reserved and self._run:  # left by a run that was killed, or gone back to by this server
            if self._sequencer is not None and self._sequencer.chief_lives:
                raise ValueError(f"server {self.index} serves another run, whose chief is alive")
            self._forget_run()
        self._reserved, self._reserved_at = reserve, time.monotonic()

    def close(self) -> None:
        """Stops at once, as if killed, but for the threads."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for other in self._others:
            other.close()
        self._service.close()
        self._writer.shutdown()

    def update_seconds(self) -> list[float]:
        """Durations of the last updates."""
        return list(self._shard.seconds) if self._shard is not None else []

    def _guard(self, work: Callable[[], None]) -> Callable[[], None]:
        """A thread that fails must not leave a server that looks alive."""

        def run() -> None:
            try:
                work()
            except Exception as e:
                if not self._closing.is_set():
                    logging.exception("The parameter server failed")
                    with self._changed:
                        self._failure = f"server {self.index} failed: {type(e).__name__}: {e}"
                        self._finish(1, self._failure)

        return run

    # What callers must be and have.

    def _check(self, caller: pb.Caller) -> None:
        """Called with the lock."""
        if self._ended is not None:
            raise self._ended
        if self._rolling:
            raise NotNow("the servers go back to a snapshot")
        if not self._run:
            raise NotNow("no run has begun")
        if (caller.run, caller.incarnation) != (self._run, self._incarnation):
            raise Fenced(f"incarnation {caller.incarnation} is over; this is {self._incarnation}")

    def _ready(self) -> tuple[Sequencer, Shard]:
        """Called with the lock."""
        if self.index != 0:
            raise ValueError(f"this is server {self.index}; server 0 answers that")
        if self._ended is not None:
            raise self._ended
        if self._rolling or self._sequencer is None or self._shard is None:
            raise NotNow("the run has not begun" if not self._rolling else "the servers go back to a snapshot")
        return self._sequencer, self._shard

    def _values(self) -> Shard:
        if self._shard is None:
            raise Fenced("this server has no values: it was started again")
        return self._shard

    # Any server.

    def _status(self, request: pb.StatusRequest, data: memoryview) -> Payload:
        with self._changed:
            if request.reserve:
                self._reserve(request.reserve)
            if self.index != 0 or self._sequencer is None:  # whoever asks expects a run here
                self._heard = time.monotonic()
            version = self._shard.values.version if self._shard is not None else 0
            reply = pb.StatusReply(
                index=self.index,
                addresses=self.addresses,
                run=self._run,
                incarnation=self._incarnation,
                version=version,
                boot=self._boot,
                failure=self._failure,
                signature=json.dumps(self._signature),
            )
        reply.snapshots.extend(self._snapshots.versions())
        return reply, b""

    def _begin(self, request: pb.BeginRequest, data: memoryview) -> Payload:
        differing = differences(self._signature, json.loads(request.signature))
        if differing:
            raise ValueError(f"server {self.index} and the chief do not agree on {differing}")
        with self._changed:
            self._check_reservation(request.reserve)
            if self._sequencer is not None and request.run != self._run and self._sequencer.chief_lives:
                raise ValueError(f"server {self.index} serves another run, whose chief is alive")
        layout = layout_from_header(request.header)
        settings = Settings(**json.loads(request.settings))
        if not request.ready:
            if request.run == self._run:  # sent again
                return EMPTY
            shard = Shard(layout, self.index, len(self.addresses), self._rule)
            shard.most_staged = 8 + 4 * settings.num_workers
            with self._applying, self._changed:
                self._snapshots.clear()
                self._run, self._incarnation, self._shard, self._sequencer = request.run, 1, shard, None
                self._rolling = self._rollback_asked = self._begun = False
                self._queue.clear()
                self._received, self._heard = 0, time.monotonic()
                self._snapshot_asked, self._committed = None, 0
                for other in self._others:
                    other.reset(self._run, self._incarnation)
            return EMPTY
        with self._changed:
            shard = self._values()
            if request.run != self._run:
                raise Fenced("another run has begun here")
            if self._begun:  # sent again
                return EMPTY
            if not shard.is_loaded:
                raise ValueError(f"server {self.index} is to begin without all of its values")
            shard.begin(settings.updates)
            self._begun, self._heard = True, time.monotonic()
            if self.index == 0:
                self._sequencer = Sequencer(settings, self._emit, self._changed)
                logging.info("The run begins at version %d, with %s.", settings.updates, request.settings)
            self._changed.notify_all()
        return EMPTY

    def _load(self, request: pb.LoadRequest, data: memoryview) -> Payload:
        if wire.checksum(data) != request.checksum:
            raise ValueError(f"{request.what!r} was damaged on its way")
        with self._changed:
            shard = self._values()
            if request.run != self._run:
                raise Fenced("another run has begun here")
        shard.load_part(request.what, request.offset, request.total, data)
        return EMPTY

    def _push(self, request: pb.PushRequest, data: memoryview) -> Payload:
        with self._changed:
            self._check(request.caller)
            shard = self._values()
        if not request.commit.skip:
            self._stage(shard, request, data)
        if not request.HasField("commit"):
            return pb.PushReply(), b""
        with self._changed:
            self._check(request.caller)
            sequencer, _ = self._ready()
            if not (request.commit.skip or shard.is_staged(request.claim)):
                raise ValueError(f"claim {request.claim} was committed before all of its push had come")
            self._draining = True
            try:
                sequencer.accept(sequencer.member(request.caller.session), request.claim, request.commit)
            finally:
                self._draining = False
            outcome = sequencer.outcome(request.claim) or pb.PushReply()
        self._guard(self._drain)()
        return outcome, b""

    def _stage(self, shard: Shard, request: pb.PushRequest, data: memoryview) -> None:
        if request.header and request.header != shard.header:
            difference = shard.layout.difference(layout_from_header(request.header))
            raise ValueError(f"the push does not fit: {difference or 'its header differs'}")
        if wire.checksum(data, request.claim) != request.checksum:
            raise ValueError("the push was damaged on its way (its checksum differs)")
        shard.stage(request.claim, request.offset, request.total, data)

    def _pull(self, request: pb.PullRequest, data: memoryview) -> Payload:
        pulling = request.pulling
        deadline = time.monotonic() + LONG_POLL_SECONDS
        if pulling.pin or pulling.offset:
            return self._pull_part(request.caller, pulling, deadline)
        return self._wait_and_reply(request.caller, pulling, deadline)

    def _push_pull(self, request: pb.PushRequest, data: memoryview) -> Payload:
        pushed, _ = self._push(request, data)
        if self._drop_reply(pushed.version):  # type: ignore[attr-defined]
            raise NotNow("JAXDIST_FAULT loses this reply")
        request.then.pushed = request.claim
        return self._wait_and_reply(request.caller, request.then, time.monotonic() + LONG_POLL_SECONDS)

    def _wait_and_reply(self, caller: pb.Caller, pulling: pb.Pulling, deadline: float) -> Payload:
        """Parameters and statistics, once version and staleness controller allow it; else `granted` is False."""
        start = _Start()
        with self._changed:
            while True:
                self._check(caller)
                shard = self._values()
                reply = pb.PullReply(version=shard.values.version)
                if self._may_have(caller, pulling, shard, reply, start):
                    values = shard.values
                    break
                left = deadline - time.monotonic()
                if left <= 0:
                    return reply, b""
                self._changed.wait(left)
        whole, digest = shard.reply_of(values)
        reply.granted, reply.version = True, values.version
        reply.total, reply.checksum = len(whole), digest
        return reply, memoryview(whole)[: wire.CHUNK]

    def _may_have(
        self, caller: pb.Caller, pulling: pb.Pulling, shard: Shard, reply: pb.PullReply, start: _Start
    ) -> bool:
        """Whether a pull may be answered; fills in the reply but for the values. With the lock."""
        needed = pulling.min_version
        if self.index != 0:
            return shard.values.version >= needed and (not pulling.pushed or shard.is_applied(pulling.pushed))
        sequencer, _ = self._ready()
        reply.progress.CopyFrom(sequencer.progress())
        member = sequencer.member(caller.session) if caller.session else None
        if pulling.pushed:
            outcome = sequencer.outcome(pulling.pushed)
            if outcome is None:
                return False
            reply.push.CopyFrom(outcome)
            needed = max(needed, outcome.version)
        if pulling.start and member is not None and start.version is None:
            lead = sequencer.may_start(member, pulling)
            if lead is None:
                return False
            # What is accepted by now counts as completed: without it in the values, staleness would pass its bound.
            start.version, start.lead = sequencer.version, lead
        reply.clock_lead = start.lead
        return shard.values.version >= max(needed, start.version or 0)

    def _pull_part(self, caller: pb.Caller, pulling: pb.Pulling, deadline: float) -> Payload:
        """A chunk: of a pinned version, or of a version whose beginning was pulled just before."""
        with self._changed:
            while True:
                self._check(caller)
                shard = self._values()
                pinned = shard.pinned(pulling.pin) if pulling.pin else None
                if pinned is not None and pinned.version != pulling.version:
                    pinned = None  # the request to pin was sent again, and is on its way with a later version
                if pinned is not None or not pulling.pin:
                    break
                if time.monotonic() > deadline:
                    raise NotNow(f"{pulling.pin!r} is not pinned (yet)")
                self._changed.wait(0.1)
        if pinned is not None:
            version, whole = pinned.version, shard_bytes(pinned, pulling.what)
        else:
            try:
                version, whole = pulling.version, shard.recent(pulling.version)
            except LookupError as e:
                raise Superseded(str(e)) from e
        part = whole[pulling.offset : pulling.offset + wire.CHUNK]
        return pb.PullReply(granted=True, version=version, total=len(whole), checksum=wire.checksum(part)), part

    # Server 0.

    def _join(self, request: pb.JoinRequest, data: memoryview) -> Payload:
        with self._changed:
            sequencer, shard = self._ready()
            if request.worker >= 0 and request.phase > sequencer.settings.phase:
                raise NotNow(f"phase {request.phase} has not begun")
            if request.worker >= 0 and request.phase < sequencer.settings.phase:
                raise ValueError(f"phase {request.phase} of the run is over; this is {sequencer.settings.phase}")
            if list(request.addresses) != self.addresses:
                raise ValueError(
                    f"the servers are {', '.join(self.addresses)} in this order, but worker {request.worker} was given "
                    f"{', '.join(request.addresses)}"
                )
            differing = differences(self._signature, json.loads(request.signature))
            if differing:
                raise ValueError(f"worker {request.worker} and the servers do not agree on {differing}")
            if request.header != shard.header:
                raise ValueError(shard.layout.difference(layout_from_header(request.header)))
            member = sequencer.join(request.worker)
            session = member.session if member is not None else 0
            caller = pb.Caller(run=self._run, incarnation=self._incarnation, session=session)
            settings = json.dumps(dataclasses.asdict(sequencer.settings))
            return pb.JoinReply(caller=caller, settings=settings, progress=sequencer.progress()), b""

    def _claim(self, request: pb.ClaimRequest, data: memoryview) -> Payload:
        deadline = time.monotonic() + LONG_POLL_SECONDS
        with self._changed:
            while True:
                self._check(request.caller)
                sequencer, _ = self._ready()
                member = sequencer.member(request.caller.session)
                claim = sequencer.claim(member, request.number)
                if claim is not None:
                    given = pb.ClaimReply.GIVEN
                    return pb.ClaimReply(outcome=given, claim=claim.number, bounds=bounds(claim.ranges)), b""
                if sequencer.finished:
                    return pb.ClaimReply(outcome=pb.ClaimReply.DONE), b""
                left = deadline - time.monotonic()
                if left <= 0:
                    return pb.ClaimReply(outcome=pb.ClaimReply.WAIT), b""
                self._changed.wait(left)

    def _heartbeat(self, request: pb.HeartbeatRequest, data: memoryview) -> Payload:
        with self._changed:
            self._check(request.caller)
            sequencer, _ = self._ready()
            if not request.caller.session:
                sequencer.evaluator_heartbeat()
                return pb.HeartbeatReply(progress=sequencer.progress()), b""
            member = sequencer.member(request.caller.session)
            sequencer.set_away(member, request.away)
            reply = pb.HeartbeatReply(
                progress=sequencer.progress(),
                events=sequencer.events[request.events_from :],
                evaluator=sequencer.has_evaluator,
            )
            if member.worker == 0:
                reply.evaluations.extend(sequencer.evaluations[request.evaluations_from :])
                reply.reports = json.dumps(sequencer.report())
            return reply, b""

    def _pin(self, request: pb.PinRequest, data: memoryview) -> Payload:
        with self._changed:
            self._check(request.caller)
            sequencer, shard = self._ready()
            reply = sequencer.pin(request.name, request.unpin)
            reply.slots.extend(shard.values.state)
            return reply, b""

    def _post(self, request: pb.PostRequest, data: memoryview) -> Payload:
        with self._changed:
            self._check(request.caller)
            self._ready()[0].post_evaluation(request.text)
        return EMPTY

    def _leave(self, request: pb.PostRequest, data: memoryview) -> Payload:
        with self._changed:
            self._check(request.caller)
            sequencer, _ = self._ready()
            sequencer.leave(sequencer.member(request.caller.session), request.text)
        return EMPTY

    def _close(self, request: pb.CloseRequest, data: memoryview) -> Payload:
        with self._changed:
            self._check(request.caller)
            sequencer, _ = self._ready()
            sequencer.close(sequencer.member(request.caller.session))
        return EMPTY

    def _end(self, request: pb.EndRequest, data: memoryview) -> Payload:
        with self._changed:
            lives = self._run if self.index else self._sequencer is not None and self._sequencer.chief_lives
            if request.run != self._run and (request.run or lives):
                raise Fenced("another run has begun here")
            self._check_reservation(request.reserve)
            if request.phase_over:
                logging.info("A phase is over; waiting for the next.")
                self._forget_run()
                return EMPTY
            if self.index == 0 and self._run:
                self._end_asked = Ended(request.code, request.text)  # the monitor ends the others
                if self._sequencer is not None:
                    self._sequencer.end(request.code, request.text)
            else:
                self._finish(request.code, request.text)
        return EMPTY

    def _forget_run(self) -> None:
        """Forgets the run and waits for another. Called with the lock."""
        self._runs_forgotten += 1
        self._run, self._shard, self._sequencer = "", None, None
        self._begun = self._rolling = self._rollback_asked = False
        self._queue.clear()
        self._received, self._committed, self._snapshot_asked = 0, 0, None
        for other in self._others:
            other.reset("", 0)
            other.boot = ""
        self._writer.submit(self._snapshots.clear)  # after those that are being written
        self._heard = time.monotonic()
        self._changed.notify_all()

    def _finish(self, code: int, text: str) -> None:
        """Called with the lock."""
        if self._ended is None:
            self._ended = Ended(code, text)
        self._changed.notify_all()

    def _emit(self, operation: pb.Operation) -> None:
        """The next operation, for every shard. Called with the lock."""
        self._queue.append(operation)
        for other in self._others:
            other.put(operation)
        if not self._draining:
            self._work.notify()

    # The other servers.

    def _apply(self, request: pb.ApplyRequest, data: memoryview) -> Payload:
        with self._changed:
            self._check(pb.Caller(run=request.run, incarnation=request.incarnation))
            self._values()
            self._heard = time.monotonic()
            if request.first > self._received:
                raise Fenced(f"operations {self._received} to {request.first} are missing")
            self._queue.extend(request.operations[self._received - request.first :])
            self._received = max(self._received, request.first + len(request.operations))
        self._guard(self._drain)()
        return EMPTY

    def _restore(self, request: pb.RestoreRequest, data: memoryview) -> Payload:
        with self._changed:
            if self._run not in ("", request.run):
                raise Fenced("another run has begun here")
            forgotten = self._runs_forgotten
        self._restore_shard(request.run, request.incarnation, request.version, request.header, forgotten)
        return EMPTY

    def _restore_shard(self, run: str, incarnation: int, version: int, header: bytes, forgotten: int) -> None:
        self._writer.submit(lambda: None).result()  # nothing of the incarnation before is written after this
        vectors = self._snapshots.load(run, version)
        self._snapshots.drop([v for v in self._snapshots.versions() if v > version])
        shard = Shard(layout_from_header(header), self.index, len(self.addresses), self._rule)
        shard.restore(version, vectors)
        with self._applying, self._changed:
            if self._run not in ("", run) or forgotten != self._runs_forgotten:  # meanwhile the chief has begun another
                raise Fenced("another run has begun here")
            self._begun, self._committed = True, version
            self._queue.clear()
            self._shard, self._run, self._incarnation = shard, run, incarnation
            self._received, self._heard = 0, time.monotonic()
            self._changed.notify_all()
        logging.info("Back at version %d, incarnation %d.", version, incarnation)

    # Threads.

    def _apply_forever(self) -> None:
        while not self._closing.is_set():
            with self._work:
                while not self._queue and not self._closing.is_set():
                    self._work.wait(1.0)
            self._drain()

    def _drain(self) -> None:
        """Applies the operations that wait, one at a time, unless another thread is at it. Called without the lock.

        A thread whose caller waits for them does it itself: handing them to the applier would cost two switches.
        """
        # Looked at again after each release: what came in between found the lock taken.
        while self._queue and self._shard is not None and self._applying.acquire(blocking=False):
            try:
                while True:
                    with self._changed:
                        if not self._queue or self._shard is None:
                            break
                        operation, shard = self._queue.popleft(), self._shard
                    self._do(operation, shard)
                    with self._changed:
                        self._changed.notify_all()
            finally:
                self._applying.release()

    def _do(self, operation: pb.Operation, shard: Shard) -> None:
        match operation.kind:
            case pb.Operation.UPDATE:
                weights = operation.learning_rate, operation.stats_weight, operation.momentum_cut
                shard.update(operation.version, operation.claims, *weights)
                self._on_update(operation.version)
            case pb.Operation.PIN:
                shard.pin(operation.pin)
            case pb.Operation.UNPIN:
                shard.unpin(operation.pin)
            case pb.Operation.FORGET:
                shard.forget(operation.claims)
            case pb.Operation.SNAPSHOT:
                self._writer.submit(self._save, self._run, shard.values, operation.committed)

    def _save(self, run: str, values: Values, committed: int) -> None:
        try:
            self._snapshots.save(run, values.version, contents(values), keep=committed)
        except Exception as e:  # training goes on; what is lost with a server grows
            logging.error("The snapshot of version %d could not be written: %s", values.version, e)

    def _monitor(self) -> None:
        """Leases, restarted servers, snapshots, and the end; every HEARTBEAT_SECONDS."""
        snapshot_at = 0.0
        while not self._closing.is_set():
            with self._changed:
                sequencer = self._sequencer
                if sequencer is not None and not self._rolling:
                    self._heard = time.monotonic()
                    sequencer.drop_silent()
                ended = self._asked_to_end()
                if ended is not None:
                    break
            if self._rollback_asked:
                self._roll_back()
            elif sequencer is not None:
                if self._a_server_was_restarted():
                    self._rollback_asked = True
                    continue
                if time.monotonic() >= snapshot_at and self._ask_snapshot(sequencer):
                    snapshot_at = time.monotonic() + sequencer.settings.snapshot_seconds
                self._commit_snapshot()
            self._closing.wait(
                HEARTBEAT_SECONDS / 5 if sequencer is None or self._snapshot_asked else HEARTBEAT_SECONDS
            )
        else:
            return
        self._announce_end(ended)

    def _asked_to_end(self) -> Ended | None:
        """Called with the lock."""
        ended = self._sequencer.ended if self._sequencer is not None else None
        return ended or self._end_asked

    def _announce_end(self, ended: Ended) -> None:
        """Waits until the workers have asked, then ends the other servers."""
        sequencer = self._sequencer
        if sequencer is not None and (sequencer.controller.members.keys() - {0} or sequencer.has_evaluator):
            self._closing.wait(6 * HEARTBEAT_SECONDS)  # each asks at least once a heartbeat
        for other in self._others:
            with contextlib.suppress(Lost, Fenced, Ended):
                request = pb.EndRequest(run=self._run, code=ended.code, text=ended.text)
                other.stub.call("End", request, timeout=5)
        with self._changed:
            self._finish(ended.code, ended.text)

    def _a_server_was_restarted(self) -> bool:
        for other in self._others:
            try:
                status, _ = other.stub.call("Status", pb.StatusRequest(), timeout=5)
            except (Lost, Fenced, Ended):
                continue
            other.status = status
            if other.boot and other.boot != status.boot:
                logging.warning("The server at %s was started again.", other.stub.address)
                other.boot = status.boot
                return True
            other.boot = status.boot
            if status.failure:
                with self._changed:
                    assert self._sequencer is not None
                    self._sequencer.end(1, status.failure)
        return False

    def _ask_rollback(self) -> None:
        self._rollback_asked = True

    def _ask_snapshot(self, sequencer: Sequencer) -> bool:
        with self._changed:
            now = time.monotonic()
            if sequencer is not self._sequencer:
                return False
            if self._snapshot_asked is not None:
                if now - self._snapshot_asked[2] < max(3 * sequencer.settings.snapshot_seconds, 30.0):
                    return False
                logging.error("A snapshot has not reached the disk of every server; trying another.")
            self._snapshot_asked = (sequencer.version, sequencer.snapshot_record(), now)
            snapshot = pb.Operation(kind=pb.Operation.SNAPSHOT, version=sequencer.version, committed=self._committed)
            self._emit(snapshot)
            return True

    def _commit_snapshot(self) -> None:
        """Once every server has a version on disk, it is the one to go back to."""
        with self._changed:
            if self._snapshot_asked is None:
                return
            version, record, _ = self._snapshot_asked
        on_disk = [self._snapshots.versions(), *(o.status.snapshots for o in self._others if o.status is not None)]
        if len(on_disk) == len(self.addresses) and all(version in versions for versions in on_disk):
            self._save_run(record)
            with self._changed:
                self._snapshot_asked, self._committed = None, version

    def _save_run(self, record: dict[str, Any]) -> None:
        with self._changed:
            if self._sequencer is None or self._shard is None:  # another run is beginning
                return
            settings, header = self._sequencer.settings, self._shard.header
            run = {"run": self._run, "servers": len(self.addresses), "incarnation": self._incarnation}
            run |= {"settings": dataclasses.asdict(settings)}
        self._snapshots.save_run(run | {"header": base64.b64encode(header).decode(), "sequencer": record})

    def _cannot_roll_back(self, before: Sequencer | None, why: str) -> None:
        """Ends the run; or, where no run went on here, forgets the snapshot and waits for a chief."""
        with self._changed:
            self._rollback_asked = False
            if before is not None:
                self._rolling = False
                before.end(1, f"the parameter servers cannot go back to their snapshot: {why}")
                return
            logging.warning("The snapshot is of no use (%s); waiting for a chief to begin a run.", why)
            self._snapshots.clear()
            self._run, self._shard, self._rolling = "", None, False

    def _roll_back(self) -> None:
        """A new incarnation of all servers, from the newest common snapshot."""
        stored = self._snapshots.load_run()
        with self._changed:
            before = self._sequencer
            if stored is None:
                if before is not None:
                    before.end(1, "a parameter server was lost before there was a snapshot to go back to")
                self._rollback_asked = False
                return
            self._rolling = True
            forgotten = self._runs_forgotten
            self._incarnation = max(self._incarnation, stored["incarnation"]) + 1
            self._changed.notify_all()
        run, record, header = stored["run"], Sequencer.beyond(stored["sequencer"]), base64.b64decode(stored["header"])
        request = pb.RestoreRequest(run=run, incarnation=self._incarnation, version=record["version"], header=header)
        for other in self._others:
            while not self._closing.is_set():
                if run != self._run or self._asked_to_end() is not None:  # the chief has begun another, or given up
                    return
                try:
                    other.stub.call("Restore", request, timeout=30)
                    other.boot = other.stub.call("Status", pb.StatusRequest(), timeout=5)[0].boot
                    break
                except Refused as e:
                    return self._cannot_roll_back(before, f"the server at {other.stub.address} says: {e}")
                except (Lost, Fenced) as e:
                    logging.warning("Waiting for a server to go back with: %s", e)
                    self._closing.wait(HEARTBEAT_SECONDS)
        try:
            self._restore_shard(run, self._incarnation, record["version"], header, forgotten)
        except Fenced:
            return
        except ValueError as e:
            return self._cannot_roll_back(before, str(e))
        with self._changed:
            if run != self._run:
                return
            for other in self._others:
                other.reset(run, self._incarnation)
            self._sequencer = Sequencer(Settings(**stored["settings"]), self._emit, self._changed, record)
            known = before.version if before is not None else None
            self._sequencer.note("servers_rolled_back", incarnation=self._incarnation, version_before=known)
            self._snapshot_asked = None
        self._save_run(record)
        with self._changed:
            if run != self._run:
                return
            self._rolling = self._rollback_asked = False
            self._changed.notify_all()
        logging.warning("All servers are at version %d, incarnation %d.", record["version"], self._incarnation)


@dataclasses.dataclass
class _Start:
    """A step that the staleness controller has let start while its pull waits for the values: taken once."""

    version: int | None = None
    lead: int = 0


def shard_bytes(values: Values, what: str) -> Any:
    """What is asked of a pinned version, as a buffer: 'params', 'stats', 'slot/NAME', or params and stats together."""
    if what:
        return values.flat(what).view(np.uint8)
    return both(values)
