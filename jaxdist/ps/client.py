"""A worker's (or an evaluator's) connection to all the servers.

    one step, two servers          worker              server 0              server 1
      gradient, part 1             Push ------------------------------------> stage
      parameters, part 1           Pull (with that push) -------------------> waits
      gradient, part 0, commit     PushPull ---------> stage, accept          |
                                                       version 7 -----------> UPDATE
                                        <------------- part 0 of version 7
                                        <------------------------------------ part 1 of version 7 (or a later one)

Every call has a deadline and is sent again, after a growing and jittered pause, for as long as `timeout_seconds`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import PeerError, UsageError
from jaxdist.parallel.flat_layout import Layout
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire
from jaxdist.ps.errors import Ended, Fenced, Lost, Refused, Superseded, as_process_error
from jaxdist.ps.layout_header import layout_header
from jaxdist.ps.reservation import check_server, end_server
from jaxdist.ps.rpc import Stub
from jaxdist.ps.timing import HEARTBEAT_SECONDS, LONG_POLL_SECONDS
from jaxdist.state.position import Ranges, from_bounds

T = TypeVar("T")
_CALL_SECONDS = LONG_POLL_SECONDS + 8.0


@dataclasses.dataclass(frozen=True)
class Claim:
    """Examples to take the gradient of, claimed in a session."""

    number: int
    caller: pb.Caller
    ranges: Ranges


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the servers had applied at one moment; sums over all workers' examples."""

    version: int = 0
    examples_seen: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    count: float = 0.0


@dataclasses.dataclass(frozen=True)
class Pulled:
    """Parameters and statistics: one buffer a server. `staleness` is that of the push that was answered, if any."""

    buffers: list[np.ndarray]
    version: int
    progress: Progress
    caller: pb.Caller
    clock_lead: int = 0
    staleness: int | None = None


class Client:
    """Thread-safe.

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
        self.worker = worker
        self._phase, self._reserve = phase, reserve
        self.layout, self._header = layout, layout_header(layout)
        self.flat_shards = [layout.shard(i, len(addresses)) for i in range(len(addresses))]
        self._addresses = list(addresses)
        self._signature = json.dumps(dict(signature))
        self._timeout, self._connect = timeout_seconds, connect_seconds
        self._stubs = [Stub(a, security) for a in addresses]
        self.caller = pb.Caller()
        self._joining = threading.Lock()
        self._claims = 0
        self._claiming_over = threading.Event()
        self._heartbeat_lock = threading.Lock()
        self._away = False
        self._closing = threading.Event()
        self._silent = threading.Event()
        self._heartbeat_thread: threading.Thread | None = None
        self.progress = Progress()
        self.evaluator = False
        self.report: dict[str, Any] = {}
        self._events_from = self._evaluations_from = 0
        self._reported: set[str] = set()  # servers that have gone back report some things twice
        self._events: list[dict[str, Any]] = []
        self._evaluations: list[dict[str, Any]] = []
        self.retries = 0
        self._trouble: Exception | None = None

    @property
    def bytes_sent(self) -> int:
        return sum(s.bytes_sent for s in self._stubs)

    @property
    def bytes_received(self) -> int:
        return sum(s.bytes_received for s in self._stubs)

    # Calls.

    def _call(
        self, server: int, name: str, message: Any, data: Any = b"", *, patience: float | None = None
    ) -> tuple[Any, memoryview]:
        """One call, sent again while the server gives no answer.

        Raises:
          PeerError: no answer for `patience` seconds, or the run failed.
          UsageError, Preempted: the run has ended with that code.
          Fenced: join again.
          Refused: the values do not fit; the text says why.
        """
        patience = self._timeout if patience is None else patience
        begin, pause = time.monotonic(), 0.05
        while True:
            try:
                return self._stubs[server].call(name, message, data, timeout=min(_CALL_SECONDS, patience))
            except Ended as e:
                raise as_process_error(e) from None
            except Lost as e:
                if self._trouble is not None and threading.current_thread() is not self._heartbeat_thread:
                    raise self._trouble from None  # server 0 has given the reason why nobody answers
                silent = time.monotonic() - begin
                if silent + pause > patience or self._closing.is_set():
                    where = f"the parameter server {server} at {self._addresses[server]}"
                    raise PeerError(f"{where} gave no answer for {silent:.0f} s ({e})") from None
                self.retries += 1
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, 2.0)

    def _call_all(self, calls: list[tuple[int, str, Any, Any]]) -> list[tuple[Any, memoryview]]:
        """Calls to several servers at once; those that get no answer are sent again as `_call` does."""
        futures = [self._stubs[s].send(n, m, d, timeout=_CALL_SECONDS) for s, n, m, d in calls]
        replies: list[tuple[Any, memoryview]] = []
        for (server, name, message, data), future in zip(calls, futures, strict=True):
            try:
                replies.append(self._stubs[server].receive(name, future))
            except Lost:
                self.retries += 1
                replies.append(self._call(server, name, message, data))
            except Ended as e:
                raise as_process_error(e) from None
        return replies

    # The run.

    def check_servers(self) -> None:
        """Meets every server.

        Raises:
          UsageError: one cannot be reached, or believes in another list of servers.
        """
        deadline = time.monotonic() + self._connect
        for i, stub in enumerate(self._stubs):
            check_server(i, self._addresses, stub, {}, deadline)

    def begin(self, settings: Mapping[str, Any], vectors: Mapping[str, np.ndarray]) -> None:
        """From the chief: a new run on all servers, with these values ('params', 'stats', 'slot/NAME': vectors).

        Raises:
          UsageError: the servers refuse.
        """
        self.caller = pb.Caller(run=(run := uuid.uuid4().hex))
        settings = dict(settings) | {"phase": self._phase}
        request = pb.BeginRequest(
            run=run,
            header=self._header,
            signature=self._signature,
            settings=json.dumps(settings),
            reserve=self._reserve,
        )
        try:
            for i in range(len(self._stubs)):
                self._call(i, "Begin", request)
                for what, vector in vectors.items():
                    self._load(i, run, what, vector)
            request.ready = True
            for i in reversed(range(len(self._stubs))):  # server 0, which lets the workers in, last
                self._call(i, "Begin", request)
        except Refused as e:
            raise UsageError(f"The parameter servers refuse the run: {e}.") from None

    def _load(self, server: int, run: str, what: str, vector: np.ndarray) -> None:
        flat_shard = self.flat_shards[server]
        if vector.ndim:
            vector = vector[flat_shard.stats if what == "stats" else flat_shard.params]
        data = np.ascontiguousarray(vector).reshape(-1).view(np.uint8)
        for offset, part in wire.chunks(data):
            digest = wire.checksum(part)
            request = pb.LoadRequest(run=run, what=what, offset=offset, total=len(data), checksum=digest)
            self._call(server, "Load", request, part)

    def join(self) -> dict[str, Any]:
        """Takes part: waits for the chief to begin, and returns its settings. Signs of life are given from now on.

        Raises:
          UsageError: the servers refuse this process, or the chief did not begin.
        """
        request = pb.JoinRequest(
            worker=self.worker,
            signature=self._signature,
            header=self._header,
            addresses=self._addresses,
            phase=self._phase,
        )
        try:
            reply, _ = self._call(0, "Join", request, patience=self._connect)
        except Refused as e:
            raise UsageError(f"This process cannot take part: {e}.") from None
        self._claims = 0
        self.caller = reply.caller
        self.progress = _progress(reply.progress)
        if self._heartbeat_thread is None:
            self._heartbeat_thread = threading.Thread(target=self._heartbeat_forever, name="heartbeat", daemon=True)
            self._heartbeat_thread.start()
        return json.loads(reply.settings)

    def rejoin(self, session_over: pb.Caller) -> None:
        """Joins again, unless another thread has done so since `session_over`."""
        with self._joining:
            if self.caller != session_over:
                return
            logging.warning("Session %d of worker %d is over; joining again.", session_over.session, self.worker)
            begin, known = time.monotonic(), self.progress.version
            while True:
                try:
                    self.join()
                    if self.caller.incarnation != session_over.incarnation:
                        self._note_lost_updates(known)
                    return
                except UsageError as e:  # training has begun: no longer the user's input
                    raise PeerError(str(e)) from None
                except Fenced:  # between two incarnations
                    if time.monotonic() - begin > self._timeout:
                        raise PeerError(f"the servers did not let worker {self.worker} join again") from None
                    time.sleep(0.2)

    def in_session(self, call: Callable[[pb.Caller], T]) -> T:
        """What `call` returns for the present session; called again in a new one where that session is over."""
        while True:
            caller = self.caller
            try:
                return call(caller)
            except Fenced:
                self.rejoin(caller)

    def _note_lost_updates(self, known: int) -> None:
        lost = max(known - self.progress.version, 0)
        words = "The servers went back from version %d to %d: %d updates were lost."
        logging.warning(words, known, self.progress.version, lost)
        with self._heartbeat_lock:
            self._events_from = self._evaluations_from = 0
            self._events.append({"event": "updates_lost", "lost_updates": lost, "incarnation": self.caller.incarnation})

    def claim(self) -> Claim | None:
        """The next examples for this worker. Blocks while others may still be lost and theirs come free. None: done."""

        def ask(caller: pb.Caller) -> tuple[pb.Caller, pb.ClaimReply]:
            return caller, self._call(0, "Claim", pb.ClaimRequest(caller=caller, number=self._claims))[0]

        while not self._claiming_over.is_set():
            caller, reply = self.in_session(ask)
            if reply.outcome == pb.ClaimReply.DONE:
                return None
            if reply.outcome == pb.ClaimReply.GIVEN:
                if caller == self.caller:
                    self._claims += 1
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
                reply, data = self._call(0, "Pull", request)
                if reply.granted:
                    with contextlib.suppress(Superseded):
                        return self._complete(caller, reply, data)

        return self.in_session(pull)

    def push_pull(
        self,
        claim: Claim,
        buffers: Sequence[np.ndarray],
        commit: Mapping[str, Any],
        *,
        ahead: int,
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
            for request, part in self._chunks(caller, server, claim.number, buffers[server]):
                staged.append((server, "Push", request, part))
        last, last_part = pb.PushRequest(caller=caller, claim=claim.number), np.zeros((0,), np.uint8)
        if staged:
            _, _, last, last_part = staged.pop()
            self._call_all(staged)
        last.commit.CopyFrom(pb.Commit(**commit))
        last.then.CopyFrom(pb.Pulling(start=True, ahead=ahead))
        early: list[Any] = []
        if buffers:  # asked for before it is known which version it will be
            asked = pb.PullRequest(caller=caller, pulling=pb.Pulling(pushed=claim.number))
            early = [stub.send("Pull", asked, timeout=_CALL_SECONDS) for stub in self._stubs[1:]]
        reply, data = self._call(0, "PushPull", last, last_part)
        while True:
            if reply.granted:
                try:
                    return self._complete(caller, reply, data, early)
                except Superseded:
                    early = []
            again = pb.Pulling(start=True, ahead=ahead, pushed=claim.number)
            reply, data = self._call(0, "Pull", pb.PullRequest(caller=caller, pulling=again))

    def _chunks(self, caller: pb.Caller, server: int, claim: int, buffer: np.ndarray) -> list[tuple[Any, np.ndarray]]:
        data = buffer.view(np.uint8)
        chunks = []
        for offset, part in wire.chunks(data):
            request = pb.PushRequest(
                caller=caller, claim=claim, offset=offset, total=len(data), checksum=wire.checksum(part, claim)
            )
            if offset == 0:
                request.header = self._header
            chunks.append((request, part))
        return chunks

    def _complete(self, caller: pb.Caller, reply: pb.PullReply, data: memoryview, early: Sequence[Any] = ()) -> Pulled:
        """The rest of a pull: further chunks, and the other servers' parts, of server 0's version or a later one.

        `early`: calls for those parts that are under way; those whose answer is too old are asked again.
        """
        asked = pb.PullRequest(caller=caller, pulling=pb.Pulling(min_version=reply.version))
        calls = early or [stub.send("Pull", asked, timeout=_CALL_SECONDS) for stub in self._stubs[1:]]
        buffers = [self._whole(caller, 0, reply, data)]
        for server, call in enumerate(calls, 1):
            try:
                part, more = self._stubs[server].receive("Pull", call)
            except Lost:
                self.retries += 1
                part, more = pb.PullReply(), memoryview(b"")
            except Ended as e:
                raise as_process_error(e) from None
            while not (part.granted and part.version >= reply.version):
                part, more = self._call(server, "Pull", asked)
            buffers.append(self._whole(caller, server, part, more))
        staleness = reply.push.staleness if reply.HasField("push") else None
        self.progress = _progress(reply.progress)
        return Pulled(buffers, reply.version, self.progress, caller, reply.clock_lead, staleness)

    def _whole(
        self, caller: pb.Caller, server: int, reply: pb.PullReply, data: memoryview, **pulling: Any
    ) -> np.ndarray:
        """All of a buffer whose first chunk is here."""
        if wire.checksum(data) != reply.checksum:
            raise PeerError(f"values from {self._addresses[server]} were damaged on their way (checksum)")
        dtype = self.layout.dtype
        if len(data) == reply.total:
            return np.frombuffer(data, np.uint8 if pulling else dtype)
        whole = bytearray(reply.total)
        whole[: len(data)] = data
        calls = []
        for offset in range(len(data), reply.total, wire.CHUNK):
            asked = pb.Pulling(offset=offset, **({"version": reply.version} | pulling))
            calls.append((server, "Pull", pb.PullRequest(caller=caller, pulling=asked), b""))
        at = len(data)
        for part, more in self._call_all(calls):
            if wire.checksum(more) != part.checksum:
                raise PeerError(f"values from {self._addresses[server]} were damaged on their way (checksum)")
            whole[at : at + len(more)] = more
            at += len(more)
        return np.frombuffer(whole, np.uint8 if pulling else dtype)

    # Consistent reads.

    def read_one_version(self, read: Callable[[PinnedVersion], T]) -> T:
        """What `read` makes of one version of all shards, which stays readable meanwhile; nobody is stopped. Read
        again, from another version, where the servers went back in between."""

        def pin_and_read(caller: pb.Caller) -> T:
            name = uuid.uuid4().hex
            reply, _ = self._call(0, "Pin", pb.PinRequest(caller=caller, name=name))
            progress, pending = _progress(reply.progress), from_bounds(reply.pending)
            found = read(PinnedVersion(self, caller, name, progress, pending, list(reply.slots)))
            self._call(0, "Pin", pb.PinRequest(caller=caller, name=name, unpin=True))
            return found

        return self.in_session(pin_and_read)

    def read(self, caller: pb.Caller, pin: str, version: int, what: str, server: int) -> np.ndarray:
        """Bytes (uint8) of one server's part of a pinned version; `what` as in `Pulling`."""
        pulling: dict[str, Any] = {"pin": pin, "what": what, "version": version}
        request = pb.PullRequest(caller=caller, pulling=pb.Pulling(**pulling))
        reply, data = self._call(server, "Pull", request)
        return self._whole(caller, server, reply, data, **pulling)

    # Signs of life.

    def heartbeat(self, away: bool | None = None) -> None:
        """Sends a sign of life and takes what server 0 reports; `away`: whether this worker is away from now on."""
        with self._heartbeat_lock:
            if away is not None:
                self._away = away
            request = pb.HeartbeatRequest(
                caller=self.caller,
                away=self._away,
                events_from=self._events_from,
                evaluations_from=self._evaluations_from,
            )
            reply, _ = self._call(0, "Heartbeat", request)
            self.progress = _progress(reply.progress)
            self.evaluator = reply.evaluator
            self._events_from += len(reply.events)
            self._evaluations_from += len(reply.evaluations)
            self._events += [json.loads(e) for e in reply.events if e not in self._reported]
            self._evaluations += [json.loads(e) for e in reply.evaluations if e not in self._reported]
            self._reported |= {*reply.events, *reply.evaluations}
            if reply.reports:
                self.report = json.loads(reply.reports)

    def heartbeat_away(self, away: bool) -> None:
        """A sign of life in the present session or a new one: whether this worker is away from training from now on."""
        self.in_session(lambda _: self.heartbeat(away))

    def _heartbeat_forever(self) -> None:
        while not self._silent.wait(HEARTBEAT_SECONDS):
            caller = self.caller
            try:
                self.heartbeat()
            except Fenced:  # workers join again when they push; an evaluator has nothing else to hear it by
                if self.worker < 0:
                    with contextlib.suppress(Exception):
                        self.rejoin(caller)
            except Exception as e:  # whoever needs an answer asks, and hears what is wrong
                self._trouble = e

    def check_alive(self) -> None:
        """Raises what the last signs of life met: `PeerError`, `Preempted` or `UsageError`."""
        if self._trouble is not None:
            raise self._trouble

    def take_events(self) -> list[dict[str, Any]]:
        with self._heartbeat_lock:
            taken, self._events = self._events, []
            return taken

    def take_evaluations(self) -> list[dict[str, Any]]:
        with self._heartbeat_lock:
            taken, self._evaluations = self._evaluations, []
            return taken

    # The end.

    def close_claims(self) -> None:
        """From the chief: nobody gets more examples. Blocks until everything that others have is applied or lost."""

        def close() -> None:
            self.in_session(lambda caller: self._call(0, "Close", pb.CloseRequest(caller=caller)))

        self._claiming_over.clear()
        close()
        while self.claim() is not None:  # the servers have gone back to when there were more
            close()

    def post_evaluation(self, row: Mapping[str, Any]) -> None:
        """From an evaluator, for the chief."""
        text = json.dumps(dict(row))
        self.in_session(lambda caller: self._call(0, "Post", pb.PostRequest(caller=caller, text=text)))

    def leave(self, report: Any) -> None:
        """Goes in good order."""
        with contextlib.suppress(Fenced, Refused):
            self._call(0, "Leave", pb.PostRequest(caller=self.caller, text=json.dumps(report)))

    def end(self, code: int, text: str) -> None:
        """From the chief: ends the run for everybody; the servers exit."""
        for stub in reversed(self._stubs):
            end_server(stub, self.caller.run, code, text, self._reserve)

    def end_phase(self) -> None:
        """From the chief, after everything is applied and read: the servers forget it and wait for a later phase.

        Raises:
          PeerError: a server gave no answer.
        """
        self._stop_heartbeats()
        for server in range(len(self._stubs)):
            with contextlib.suppress(Fenced):  # sent again
                self._call(server, "End", pb.EndRequest(run=self.caller.run, phase_over=True, reserve=self._reserve))

    def _stop_heartbeats(self) -> None:
        self._silent.set()
        if self._heartbeat_thread is not None and self._heartbeat_thread is not threading.current_thread():
            self._heartbeat_thread.join(timeout=2 * HEARTBEAT_SECONDS)

    def close(self) -> None:
        """Closes the connections; idempotent."""
        self._closing.set()
        self._stop_heartbeats()
        for stub in self._stubs:
            stub.close()


@dataclasses.dataclass(frozen=True)
class PinnedVersion:
    """One version of all shards, and what was known when it was made."""

    client: Client
    caller: pb.Caller
    name: str
    progress: Progress
    pending: Ranges
    slots: list[str]

    def _parts(self, what: str, dtype: np.dtype) -> list[np.ndarray]:
        version, servers = self.progress.version, range(len(self.client.flat_shards))
        return [self.client.read(self.caller, self.name, version, what, i).view(dtype) for i in servers]

    def buffers(self) -> list[np.ndarray]:
        """Parameters and statistics, one buffer a server, as a pull gives them."""
        return self._parts("", self.client.layout.dtype)

    def vector(self, what: str, dtype: np.dtype) -> np.ndarray:
        """'params', 'stats' or 'slot/NAME' of the whole model."""
        return np.concatenate(self._parts(what, dtype))


def _progress(message: pb.Progress) -> Progress:
    return Progress(message.version, message.examples_seen, message.loss_sum, message.correct, message.count)
