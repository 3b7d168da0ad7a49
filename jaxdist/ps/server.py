"""A parameter server's RPC handlers: one process, one shard. Server 0 also orders everything (see `sequencer.py`).

RPC threads   decode, check, stage; wait on one condition (`ServerState.changed`)
applier       applies operations to the shard where no RPC thread waits for them     operations.py
replicators   server 0 alone, one for each other server: send it the operations      replication.py
monitor       server 0 alone: leases, snapshots, restarted servers, the end          monitor.py
snapshot      writes files
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdist.comm.addresses import where_to_listen
from jaxdist.comm.security import OPEN, Security
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire
from jaxdist.ps.errors import Ended, Fenced, NotNow
from jaxdist.ps.layout_header import layout_from_header
from jaxdist.ps.monitor import Monitor
from jaxdist.ps.operations import Operations
from jaxdist.ps.pulls import Pulls
from jaxdist.ps.replication import OperationReplicator
from jaxdist.ps.rollback import Rollback
from jaxdist.ps.rpc import Handler, Payload, Service
from jaxdist.ps.served_run import ServedRun
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.shard import Shard, UpdateRule
from jaxdist.ps.signature import differences
from jaxdist.ps.squared_norms import SquaredNorms
from jaxdist.ps.timing import HEARTBEAT_SECONDS, LONG_POLL_SECONDS
from jaxdist.runtime import profiler
from jaxdist.state.position import bounds

EMPTY: Payload = (pb.Empty(), b"")


class ParameterServer:
    """Serves from construction until `wait` returns.

    Args:
      index, addresses: which of the servers this is.
      rule: the optimizer; elementwise, or no run can begin.
      signature: the run signature: what every process of the run must have alike.
      folder: for snapshots, on this host's own disk.
      security: what callers must have.
      idle_seconds: without a run, or without a word from server 0, it gives up after this.
      on_update: called after each applied update with its version (faults are injected here).
      drop_reply: whether to lose the reply to the push that made a version (for tests).

    Raises:
      OSError: the address cannot be bound.
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
        self._idle_seconds, self._drop_reply = idle_seconds, drop_reply
        state = self._state = ServerState(index, addresses, rule, signature, folder)
        self._others = others = [
            OperationReplicator(a, security, state.ask_rollback) for a in state.addresses[1:] if index == 0
        ]
        self._norms = SquaredNorms(state, security)
        self._operations = Operations(state, others, on_update, self._norms)
        self._pulls = Pulls(state)
        self._rollback = Rollback(state, self._operations, others)
        self._served = ServedRun(state, self._operations, self._rollback, others)
        handlers: dict[str, Handler] = {
            "Status": self._status,
            "Begin": self._begin,
            "Load": self._load,
            "Push": lambda request, data: (self._stage_and_accept(request, data), b""),
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
            "SumSquares": lambda request, data: (self._norms.answer(request), b""),
        }
        threads = [self._operations.apply_forever]
        if index == 0:
            self._rollback.find_stored_run()
            threads += [Monitor(state, self._rollback, others).run, *(other.run for other in others)]
        self._service = Service(where_to_listen(state.addresses[index]), handlers, security)
        self.port = self._service.port
        for work in threads:
            threading.Thread(target=state.guarded(work), name=work.__qualname__, daemon=True).start()

    def wait(self) -> Ended:
        """Blocks until the run has ended; then closes. The reason says how to exit.

        Raises:
          TimeoutError: nobody came, or server 0 was not heard of any more.
        """
        state = self._state
        while True:
            with state.changed:
                state.changed.wait(HEARTBEAT_SECONDS)
                ended, quiet = state.ended, time.monotonic() - state.heard
            if ended is not None:
                break
            if quiet > self._idle_seconds and (state.sequencer is None or state.sequencer.ended):
                self.close()
                whom = "the chief" if not state.run else "server 0"
                raise TimeoutError(f"nothing was heard from {whom} for {quiet:.0f} s")
        if ended.code in (0, 75, 143):
            state.snapshots.clear()
        self.close()
        return ended

    def stop_if_idle(self) -> None:
        """Ends where no run goes on. Safe in a signal handler: takes no lock."""
        self._served.stop_if_idle()

    def close(self) -> None:
        """Stops at once, as if killed, but for the threads. Blocks until the snapshot being written is whole."""
        self._state.closing.set()
        with self._state.changed:
            self._state.changed.notify_all()
        for other in self._others:
            other.close()
        self._norms.close()
        self._service.close()
        self._state.writer.shutdown()

    def update_seconds(self) -> list[float]:
        """Durations of the last updates."""
        return list(self._state.shard.seconds) if self._state.shard is not None else []

    # Any server.

    def _status(self, request: pb.StatusRequest, data: memoryview) -> Payload:
        state = self._state
        with state.changed:
            if request.reserve:
                self._served.reserve(request.reserve, request.identity)
            if state.index != 0 or state.sequencer is None:  # whoever asks expects a run here
                state.heard = time.monotonic()
            version = state.shard.values.version if state.shard is not None else 0
            reply = pb.StatusReply(
                index=state.index,
                addresses=state.addresses,
                run=state.run,
                incarnation=state.incarnation,
                version=version,
                boot=state.boot,
                failure=state.failure,
                signature=json.dumps(state.signature),
            )
        reply.snapshots.extend(state.snapshots.versions())
        return reply, b""

    def _begin(self, request: pb.BeginRequest, data: memoryview) -> Payload:
        self._served.begin(request)
        return EMPTY

    def _load(self, request: pb.LoadRequest, data: memoryview) -> Payload:
        if wire.checksum(data) != request.checksum:
            raise ValueError(f"{request.what!r} was damaged on its way")
        with self._state.changed:
            shard = self._state.loaded_shard()
            if request.run != self._state.run:
                raise Fenced("another run has begun here")
        shard.load_part(request.what, request.offset, request.total, data)
        return EMPTY

    @property
    def profiled(self) -> Sequence[Sequence[Any]]:
        """The windows of updates that the run profiles."""
        return self._state.settings.profile if self._state.settings is not None else ()

    def _stage_and_accept(self, request: pb.PushRequest, data: memoryview) -> pb.PushReply:
        state = self._state
        with state.changed:
            state.check_caller(request.caller)
            shard = state.loaded_shard()
        if not request.commit.skip:
            self._stage(shard, request, data)
        if not request.HasField("commit"):
            return pb.PushReply()
        with state.changed:
            state.check_caller(request.caller)
            sequencer, _ = state.ready()
            if not (request.commit.skip or shard.is_staged(request.claim)):
                raise ValueError(f"claim {request.claim} was committed before all of its push had come")
            with self._operations.drained_by_caller():
                sequencer.accept(sequencer.member(request.caller.session), request.claim, request.commit)
            outcome = sequencer.outcome(request.claim) or pb.PushReply()
        self._operations.drain()
        return outcome

    def _stage(self, shard: Shard, request: pb.PushRequest, data: memoryview) -> None:
        if request.header and request.header != shard.header:
            difference = shard.layout.difference(layout_from_header(request.header))
            raise ValueError(f"the push does not fit: {difference or 'its header differs'}")
        if wire.checksum(data, request.claim) != request.checksum:
            raise ValueError("the push was damaged on its way (its checksum differs)")
        with profiler.span(profiler.SERVER_PUSH):
            shard.stage(request.claim, request.offset, request.total, data)

    def _pull(self, request: pb.PullRequest, data: memoryview) -> Payload:
        return self._pulls.answer(request.caller, request.pulling)

    def _push_pull(self, request: pb.PushRequest, data: memoryview) -> Payload:
        pushed = self._stage_and_accept(request, data)
        if self._drop_reply(pushed.version):
            raise NotNow("JAXDIST_FAULT loses this reply")
        request.then.pushed = request.claim
        return self._pulls.answer_push(request.caller, request.then)

    # Server 0.

    def _join(self, request: pb.JoinRequest, data: memoryview) -> Payload:
        state = self._state
        with state.changed:
            sequencer, shard = state.ready()
            if request.worker >= 0 and request.phase > sequencer.settings.phase:
                raise NotNow(f"phase {request.phase} has not begun")
            if request.worker >= 0 and request.phase < sequencer.settings.phase:
                raise ValueError(f"phase {request.phase} of the run is over; this is {sequencer.settings.phase}")
            if list(request.addresses) != state.addresses:
                raise ValueError(
                    f"the servers are {', '.join(state.addresses)} in this order, but worker {request.worker} was "
                    f"given {', '.join(request.addresses)}"
                )
            differing = differences(state.signature, json.loads(request.signature))
            if differing:
                raise ValueError(f"worker {request.worker} and the servers do not agree on {differing}")
            if request.header != shard.header:
                raise ValueError(shard.layout.difference(layout_from_header(request.header)))
            member = sequencer.join(request.worker, request.process)
            session = member.session if member is not None else 0
            caller = pb.Caller(run=state.run, incarnation=state.incarnation, session=session)
            settings = json.dumps(dataclasses.asdict(sequencer.settings))
            return pb.JoinReply(caller=caller, settings=settings, progress=sequencer.progress()), b""

    def _claim(self, request: pb.ClaimRequest, data: memoryview) -> Payload:
        state = self._state
        deadline = time.monotonic() + LONG_POLL_SECONDS
        with state.changed:
            while True:
                state.check_caller(request.caller)
                sequencer, _ = state.ready()
                member = sequencer.member(request.caller.session)
                claim = sequencer.claim(member, request.number)
                if claim is not None:
                    given = pb.ClaimReply.GIVEN
                    return pb.ClaimReply(outcome=given, claim=claim.number, bounds=bounds(claim.ranges)), b""
                if sequencer.claim_table.finished:
                    return pb.ClaimReply(outcome=pb.ClaimReply.DONE), b""
                left = deadline - time.monotonic()
                if left <= 0:
                    return pb.ClaimReply(outcome=pb.ClaimReply.WAIT), b""
                state.changed.wait(left)

    def _heartbeat(self, request: pb.HeartbeatRequest, data: memoryview) -> Payload:
        with self._state.changed:
            self._state.check_caller(request.caller)
            sequencer, _ = self._state.ready()
            if not request.caller.session:
                sequencer.evaluator_heartbeat()
                return pb.HeartbeatReply(progress=sequencer.progress()), b""
            member = sequencer.member(request.caller.session)
            sequencer.set_away(member, request.away)
            reply = pb.HeartbeatReply(
                progress=sequencer.progress(),
                events=sequencer.tally.events[request.events_from :],
                evaluator=sequencer.has_evaluator,
            )
            if member.worker == 0:
                reply.evaluations.extend(sequencer.tally.evaluations[request.evaluations_from :])
                reply.reports = json.dumps(sequencer.report())
            return reply, b""

    def _pin(self, request: pb.PinRequest, data: memoryview) -> Payload:
        with self._state.changed:
            self._state.check_caller(request.caller)
            sequencer, shard = self._state.ready()
            reply = sequencer.pin(request.name, request.unpin)
            reply.slots.extend(shard.values.state)
            return reply, b""

    def _post(self, request: pb.PostRequest, data: memoryview) -> Payload:
        with self._state.changed:
            self._state.check_caller(request.caller)
            sequencer, _ = self._state.ready()
            sequencer.evaluator_heartbeat()
            sequencer.tally.note_evaluation(request.text)
        return EMPTY

    def _leave(self, request: pb.PostRequest, data: memoryview) -> Payload:
        with self._state.changed:
            self._state.check_caller(request.caller)
            sequencer, _ = self._state.ready()
            member = sequencer.member(request.caller.session)
            sequencer.leave(member, request.text)
            report = json.loads(request.text or "null")
            if isinstance(report, dict) and report.get("ends_run"):
                sequencer.end(1, f"worker {member.worker}: {report['failed']}")
        return EMPTY

    def _close(self, request: pb.CloseRequest, data: memoryview) -> Payload:
        with self._state.changed:
            self._state.check_caller(request.caller)
            sequencer, _ = self._state.ready()
            sequencer.close(sequencer.member(request.caller.session))
        return EMPTY

    def _end(self, request: pb.EndRequest, data: memoryview) -> Payload:
        self._served.end(request)
        return EMPTY

    # The other servers.

    def _apply(self, request: pb.ApplyRequest, data: memoryview) -> Payload:
        state = self._state
        with state.changed:
            state.check_caller(pb.Caller(run=request.run, incarnation=request.incarnation))
            state.loaded_shard()
            state.heard = time.monotonic()
            self._operations.receive(request.first, request.operations)
        self._operations.drain()
        return EMPTY

    def _restore(self, request: pb.RestoreRequest, data: memoryview) -> Payload:
        self._rollback.restore(request)
        return EMPTY
