"""A worker's (or an evaluator's) connection to all the servers: push, pull, claim, read pinned versions.

one step, two servers          worker              server 0              server 1
  gradient, part 1             Push ------------------------------------> stage
  parameters, part 1           Pull (with that push) -------------------> waits
  gradient, part 0, commit     PushPull ---------> stage, accept          |
                                                   version 7 -----------> UPDATE
                                    <------------- part 0 of version 7
                                    <------------------------------------ part 1 of version 7 (or a later one)
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxdist.comm.security import OPEN, Security
from jaxdist.parallel.flat_layout import Layout
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.calls import Calls
from jaxdist.ps.chief import Chief
from jaxdist.ps.errors import Ended, Lost, Superseded, as_process_error
from jaxdist.ps.layout_header import layout_header
from jaxdist.ps.reservation import check_server
from jaxdist.ps.results import Claim, PinnedVersion, Progress, Pulled
from jaxdist.ps.session import Session
from jaxdist.ps.transfers import pull_rest, push_chunks
from jaxdist.runtime import profiler
from jaxdist.state.position import from_bounds

T = TypeVar("T")


class Client:
    """Thread-safe. Calls block for their answers; what they raise is in `Calls.call`, unless they say more.

    Args:
      addresses: of all servers, in order.
      worker: its number; -1 for an evaluator.
      layout: of the model.
      signature: the run signature, the same on servers and workers.
      timeout_seconds: how long a server may give no answer before it is given up.
      connect_seconds: the same at the start.
      phase: of a run in phases: which this connection is for.
      reserve: what the run has reserved the servers by (`ServerReservation`).
    """

    def __init__(
        self,
        addresses: Sequence[str],
        worker: int,
        layout: Layout,
        *,
        signature: Mapping[str, Any],
        security: Security = OPEN,
        timeout_seconds: float = 60.0,
        connect_seconds: float = 300.0,
        phase: int = 0,
        reserve: str = "",
    ) -> None:
        self.layout = layout
        self.flat_shards = [layout.shard(i, len(addresses)) for i in range(len(addresses))]
        self._header, self._signature = layout_header(layout), json.dumps(dict(signature))
        self._phase = phase
        self._calls = Calls(addresses, security, timeout_seconds)
        joining = pb.JoinRequest(
            worker=worker,
            signature=self._signature,
            header=self._header,
            addresses=addresses,
            phase=phase,
            process=f"process {os.getpid()} on {socket.gethostname()}",
        )
        self._session = Session(self._calls, worker, joining, connect_seconds)
        self._chief = Chief(self._calls, self._session, self.flat_shards, reserve)
        self._claiming_over = threading.Event()

    @property
    def caller(self) -> pb.Caller:
        """Names the present session."""
        return self._session.caller

    @property
    def progress(self) -> Progress:
        """Of the run, as of the last reply that contained it."""
        return self._session.progress

    @property
    def evaluator(self) -> bool:
        """Whether an evaluator takes part."""
        return self._session.evaluator

    @property
    def report(self) -> dict[str, Any]:
        """To the chief, of all workers (`Sequencer.report`)."""
        return self._session.report

    @property
    def retries(self) -> int:
        return self._calls.retries

    @property
    def bytes_sent(self) -> int:
        return sum(s.bytes_sent for s in self._calls.stubs)

    @property
    def bytes_received(self) -> int:
        return sum(s.bytes_received for s in self._calls.stubs)

    # The run.

    def check_servers(self) -> None:
        """Meets every server.

        Raises:
          UsageError: one cannot be reached, or believes in another list of servers.
        """
        deadline = time.monotonic() + self._session.connect_seconds
        for i, stub in enumerate(self._calls.stubs):
            check_server(i, self._calls.addresses, stub, {}, deadline)

    def begin(self, settings: Mapping[str, Any], vectors: Mapping[str, np.ndarray]) -> None:
        """From the chief: a new run on all servers, with these values ('params', 'stats', 'slot/NAME': vectors).

        Raises:
          UsageError: the servers refuse.
        """
        self._chief.begin(self._header, self._signature, dict(settings) | {"phase": self._phase}, vectors)

    # Taking part: see `Session`.

    def join(self) -> dict[str, Any]:
        """Takes part; returns the run's settings. Blocks until the chief has begun; heartbeats are sent from then on.

        Raises:
          UsageError: the servers refuse this process.
          PeerError: the chief did not begin in time, or a server gave no answer.
        """
        return self._session.join()

    def rejoin(self, session_over: pb.Caller) -> None:
        """Joins again, unless another thread has done so since `session_over`."""
        self._session.rejoin(session_over)

    def in_session(self, call: Callable[[pb.Caller], T]) -> T:
        """What `call` returns for the present session; called again in a new one where that session is over."""
        return self._session.in_session(call)

    def heartbeat(self, away: bool | None = None) -> None:
        """Sends a sign of life and takes what server 0 reports; `away`: whether this worker is away from now on."""
        self._session.heartbeat(away)

    def heartbeat_away(self, away: bool) -> None:
        """The same in the present session or a new one."""
        self.in_session(lambda _: self.heartbeat(away))

    def check_alive(self) -> None:
        """Raises what the last heartbeats met: `PeerError`, `Preempted` or `UsageError`. Never blocks."""
        self._session.check_alive()

    def take_events(self) -> list[dict[str, Any]]:
        """The events since the last call, in order."""
        return self._session.take_events()

    def take_evaluations(self) -> list[dict[str, Any]]:
        """The evaluator's rows since the last call, in order."""
        return self._session.take_evaluations()

    def post_evaluation(self, row: Mapping[str, Any]) -> None:
        """From an evaluator, for the chief."""
        self._session.post_evaluation(row)

    def leave(self, report: Any, patience: float | None = None) -> None:
        """Goes in good order; `patience`: as of `Session.leave`."""
        self._session.leave(report, patience)

    # Steps.

    def claim(self) -> Claim | None:
        """The next examples for this worker. Blocks while others may still be lost and theirs come free. None: done."""

        def ask(caller: pb.Caller) -> tuple[pb.Caller, pb.ClaimReply]:
            return caller, self._calls.call(0, "Claim", pb.ClaimRequest(caller=caller, number=self._session.claims))[0]

        while not self._claiming_over.is_set():
            caller, reply = self.in_session(ask)
            if reply.outcome == pb.ClaimReply.DONE:
                return None
            if reply.outcome == pb.ClaimReply.GIVEN:
                if caller == self.caller:
                    self._session.claims += 1
                return Claim(reply.claim, caller, from_bounds(reply.bounds))
        return None

    def stop_claiming(self) -> None:
        """`claim` returns None from now on, where it would wait."""
        self._claiming_over.set()

    def pull(self, *, start: bool, ahead: int = 0, claim: int = 0, min_version: int = 0) -> Pulled:
        """The newest values, in the present session or a new one. With `start`: for a step, as soon as the staleness
        controller allows it; `ahead` and `claim` as in `Pulling`."""
        pulling = pb.Pulling(start=start, ahead=ahead, claim=claim, min_version=min_version)

        def pull(caller: pb.Caller) -> Pulled:
            request = pb.PullRequest(caller=caller, pulling=pulling)
            while True:
                reply, data = self._calls.call(0, "Pull", request)
                if reply.granted:
                    with contextlib.suppress(Superseded):
                        return self._complete(caller, reply, data)

        return self.in_session(pull)

    def push_pull(
        self, claim: Claim, buffers: Sequence[np.ndarray], commit: Mapping[str, Any], *, ahead: int
    ) -> Pulled:
        """Pushes the gradient and new statistics of a claim (one buffer a server: gradient, then statistics), and
        pulls for the next step as soon as the staleness controller allows it.

        Args:
          buffers: none where `commit` has skip.
          commit: the fields of `Commit` in `parameter_server.proto`.
          ahead: own steps under way when that step starts.

        Raises:
          Fenced: the push was not applied and will not be; join again.
          Refused: the values do not fit.
        """
        caller = claim.caller
        staged: list[tuple[int, str, Any, Any]] = []
        for server in reversed(range(len(buffers))):
            for request, part in push_chunks(caller, self._header, claim.number, buffers[server]):
                staged.append((server, "Push", request, part))
        last, last_part = pb.PushRequest(caller=caller, claim=claim.number), np.zeros((0,), np.uint8)
        if staged:
            _, _, last, last_part = staged.pop()
            with profiler.span(profiler.PUSH):
                self._calls.call_all(staged)
        last.commit.CopyFrom(pb.Commit(**commit))
        last.then.CopyFrom(pb.Pulling(start=True, ahead=ahead))
        early: list[Any] = []
        if buffers:  # asked for before it is known which version it will be
            asked = pb.PullRequest(caller=caller, pulling=pb.Pulling(pushed=claim.number))
            early = self._calls.send_to_others("Pull", asked)
        with profiler.span(profiler.PUSH_PULL):
            reply, data = self._calls.call(0, "PushPull", last, last_part)
        while True:
            if reply.granted:
                try:
                    return self._complete(caller, reply, data, early)
                except Superseded:
                    early = []
            again = pb.Pulling(start=True, ahead=ahead, pushed=claim.number)
            reply, data = self._calls.call(0, "Pull", pb.PullRequest(caller=caller, pulling=again))

    @profiler.named(profiler.PULL)
    def _complete(self, caller: pb.Caller, reply: pb.PullReply, data: memoryview, early: Sequence[Any] = ()) -> Pulled:
        """The rest of a pull: further chunks, and the other servers' parts, of server 0's version or a later one.

        `early`: calls for those parts that are under way; those whose answer is too old are asked again.
        """
        asked = pb.PullRequest(caller=caller, pulling=pb.Pulling(min_version=reply.version))
        calls = early or self._calls.send_to_others("Pull", asked)
        wholes = [pull_rest(self._calls, caller, 0, reply, data)]
        for server, call in enumerate(calls, 1):
            try:
                part, more = self._calls.stubs[server].receive("Pull", call)
            except Lost:
                self._calls.retries += 1
                part, more = pb.PullReply(), memoryview(b"")
            except Ended as e:
                raise as_process_error(e) from None
            while not (part.granted and part.version >= reply.version):
                part, more = self._calls.call(server, "Pull", asked)
            wholes.append(pull_rest(self._calls, caller, server, part, more))
        staleness = reply.push.staleness if reply.HasField("push") else None
        self._session.progress = Progress.of(reply.progress)
        buffers = [np.frombuffer(whole, self.layout.dtype) for whole in wholes]
        return Pulled(buffers, reply.version, self._session.progress, caller, reply.clock_lead, staleness)

    # Consistent reads.

    def read_one_version(self, read: Callable[[PinnedVersion], T]) -> T:
        """What `read` makes of one version of all shards, which stays readable meanwhile; nobody is stopped. Read
        again, from another version, where the servers went back in between."""

        def pin_and_read(caller: pb.Caller) -> T:
            name = uuid.uuid4().hex
            reply, _ = self._calls.call(0, "Pin", pb.PinRequest(caller=caller, name=name))
            progress, pending = Progress.of(reply.progress), from_bounds(reply.pending)
            version, servers = progress.version, range(len(self.flat_shards))

            def parts(what: str) -> list[np.ndarray]:
                return [self.read(caller, name, version, what, server) for server in servers]

            found = read(PinnedVersion(caller, progress, pending, list(reply.slots), self.layout.dtype, parts))
            self._calls.call(0, "Pin", pb.PinRequest(caller=caller, name=name, unpin=True))
            return found

        return self.in_session(pin_and_read)

    def read(self, caller: pb.Caller, pin: str, version: int, what: str, server: int) -> np.ndarray:
        """Bytes (uint8) of one server's part of a pinned version; `what` as in `Pulling`."""
        pulling: dict[str, Any] = {"pin": pin, "what": what, "version": version}
        request = pb.PullRequest(caller=caller, pulling=pb.Pulling(**pulling))
        reply, data = self._calls.call(server, "Pull", request)
        return np.frombuffer(pull_rest(self._calls, caller, server, reply, data, **pulling), np.uint8)

    # The end.

    def close_claims(self) -> None:
        """From the chief: nobody gets more examples. Blocks until everything that others have is applied or lost."""

        def close() -> None:
            self.in_session(lambda caller: self._calls.call(0, "Close", pb.CloseRequest(caller=caller)))

        self._claiming_over.clear()
        close()
        while self.claim() is not None:  # the servers have gone back to when there were more
            close()

    def end(self, code: int, text: str) -> None:
        """From the chief: ends the run for everybody; the servers exit."""
        self._chief.end(code, text)

    def end_phase(self) -> None:
        """From the chief, after everything is applied and read: the servers forget it and wait for a later phase.

        Raises:
          PeerError: a server gave no answer.
        """
        self._chief.end_phase()

    def close(self) -> None:
        """Closes the connections; idempotent."""
        self._calls.stop_retrying()
        self._session.stop_heartbeats()
        self._calls.close()
