"""The processes of a run, as they know each other: a rendezvous and a watch, served by process 0.

    process 1..N-1                    process 0 (chief)
      gather('join', facts)   ----->  waits for all, then answers each with everybody's facts
      beat(update, phase)     ----->  every BEAT_SECONDS; the answer is a failure, or nothing
      watch()                 <-----  stays open: either side sees at once when the other dies
      fetch(name, offset)     ----->  one leaf of a restored checkpoint, in chunks

It comes before `jax.distributed`, which aborts the process in C++ on a wrong id or an unreachable coordinator, and it
serves runs that need no `jax.distributed` at all. A process that finds a peer lost or stuck while its own main thread
is blocked inside a collective cannot raise there; it says what happened and ends the process (exit code 1).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from jaxdist.comm.rpc import CallError, Client, Server
from jaxdist.errors import PeerError, Preempted, UsageError

BEAT_SECONDS = 0.5
_CHUNK = 2 * 2**20


class Chief:
    """What process 0 serves: barriers that carry values, heartbeats, and leaves. All methods are thread-safe."""

    def __init__(self, address: str, num_processes: int, timeout_seconds: float) -> None:
        self._n = num_processes
        self._timeout = timeout_seconds
        self._change = threading.Condition()
        self._gathered: dict[str, dict[int, Any]] = {}
        self._tokens: dict[int, str] = {}
        self._beats: dict[int, dict[str, Any]] = {}
        self._left: set[int] = set()
        self._failure = ""
        self._code = 1
        self._refused = ""
        self._started = False  # everybody has met once; from then on a stranger is refused alone
        self._phase = -1  # of a run in phases, while lives are apart
        self._said: dict[str, Any] = {}
        self._watches: dict[int, int] = {}  # process -> how often it has come back
        self._leaves: dict[str, Callable[[], bytes]] = {}
        self._last_leaf: tuple[str, bytes] = ("", b"")
        self._reading = threading.Lock()  # a slow disk must not hold up the heartbeats
        self._server = Server(
            address,
            {
                "gather": self._gather,
                "beat": self._beat,
                "fail": self._fail,
                "leave": self._leave,
                "come_back": self._come_back,
                "phase": self._ask_phase,
                "hear": self._hear,
                "fetch": self._fetch,
            },
            {"watch": self._watch},
            threads=4 * num_processes + 4,
        )
        self.port = self._server.port

    def serve_leaves(self, leaves: dict[str, Callable[[], bytes]]) -> None:
        """From now on `fetch` hands out these bytes, each made when first asked for."""
        with self._change:
            self._leaves = leaves
        with self._reading:
            self._last_leaf = ("", b"")

    def close(self) -> None:
        """Waits a moment for the others to leave, then ends the service."""
        deadline = time.monotonic() + 10
        with self._change:
            while len(self._left) < self._n and not self._failure and time.monotonic() < deadline:
                self._change.wait(0.2)
        self._server.close()

    def _gather(self, payload: bytes) -> bytes:
        asked = json.loads(payload)
        name, who, timeout = asked["name"], asked["process"], asked["timeout"]
        deadline = time.monotonic() + timeout
        with self._change:
            problem = ""
            if not 0 <= who < self._n:
                problem = f"a process has the id {who}, but ids run from 0 to {self._n - 1}"
            elif self._tokens.setdefault(who, asked["token"]) != asked["token"]:
                if self._phase >= 0 and who in self._left:  # started again while lives are apart
                    self._tokens[who] = asked["token"]
                else:
                    problem = f"two processes were started with --process_id={who}"
            if problem:
                if not self._started:
                    self._refused = problem
                    self._change.notify_all()
                raise _refusal(problem, 2)
            table = self._gathered.setdefault(name, {})
            table[who] = asked["value"]
            self._change.notify_all()
            while len(table) < self._n:
                if self._refused:
                    raise _refusal(self._refused, 2)
                if self._failure:
                    raise _refusal(self._failure, self._code)
                left = deadline - time.monotonic()
                if left <= 0:
                    absent = sorted(set(range(self._n)) - set(table))
                    raise _refusal(
                        f"{_processes(absent)} of {self._n} did not come to {name!r} within {timeout:g} s",
                        1 if self._started else 2,
                    )
                self._change.wait(min(left, 1.0))
            if self._refused:
                raise _refusal(self._refused, 2)
            self._started = True
            return json.dumps([table[i] for i in range(self._n)]).encode()

    def _beat(self, payload: bytes) -> bytes:
        beat = json.loads(payload)
        with self._change:
            now = time.monotonic()
            before = self._beats.get(beat["process"])
            stands = before is not None and (before["update"], before["phase"]) == (beat["update"], beat["phase"])
            moved = before["moved"] if before is not None and stands else now
            self._beats[beat["process"]] = beat | {"seen": now, "moved": moved}
            self._judge(now)
            return self._told()

    def _judge(self, now: float) -> None:
        """Names the process that stopped beating, or the one that holds everybody up."""
        if self._failure:
            return
        present = {i: b for i, b in self._beats.items() if i not in self._left}
        for i, beat in present.items():
            if now - beat["seen"] > self._timeout:
                return self._set_failure(
                    f"process {i} was lost: nothing heard for {self._timeout:g} s at {_where(beat)}"
                )
        if present and all(now - b["moved"] > b["limit"] for b in present.values()):
            last = min(b["update"] for b in present.values())
            slow = [i for i, b in present.items() if b["update"] == last]
            limit = max(b["limit"] for b in present.values())
            self._set_failure(
                f"{_processes(slow)} did not get past {_where(present[slow[0]])} within {limit:g} s "
                "(raise cluster.timeout_seconds if that is its ordinary pace)"
            )

    def _set_failure(self, text: str, code: int = 1) -> None:
        if not self._failure:
            self._failure, self._code = text, code
        self._change.notify_all()

    def _told(self) -> bytes:
        return json.dumps({"code": self._code, "text": self._failure}).encode() if self._failure else b""

    def _fail(self, payload: bytes) -> bytes:
        said = json.loads(payload)
        with self._change:
            self._left.add(said["process"])
            if self._phase < 0 or said["process"] == 0:  # else lives are apart
                self._set_failure(f"process {said['process']} failed: {said['text']}", said["code"])
        return b""

    def announce_phase(self, phase: int) -> None:
        """What processes that are started again hear; -1: lives are tied, there is no coming back."""
        with self._change:
            self._phase = phase
            if phase >= 0:  # all have met for it; what becomes of one of them is its own affair now
                self._left, self._failure = set(range(self._n)), ""

    def say(self, name: str, value: Any) -> None:
        """Answers those that hear `name`, now and later."""
        with self._change:
            self._said[name] = value
            self._change.notify_all()

    def _hear(self, payload: bytes) -> bytes:
        asked = json.loads(payload)
        deadline = time.monotonic() + asked["timeout"]
        with self._change:
            while asked["name"] not in self._said:
                if self._failure:
                    raise _refusal(self._failure, self._code)
                if time.monotonic() > deadline:
                    raise _refusal(f"process 0 did not say {asked['name']!r} within {asked['timeout']:g} s", 1)
                self._change.wait(1.0)
            return json.dumps(self._said[asked["name"]]).encode()

    def _ask_phase(self, payload: bytes) -> bytes:
        with self._change:
            return json.dumps(self._phase).encode()

    def _come_back(self, payload: bytes) -> bytes:
        """A process whose life is tied to the others' again."""
        who = json.loads(payload)["process"]
        with self._change:
            self._left.discard(who)
            self._watches[who] = self._watches.get(who, 0) + 1
            self._beats.pop(who, None)
        return b""

    def _leave(self, payload: bytes) -> bytes:
        with self._change:
            self._left.add(json.loads(payload)["process"])
            self._change.notify_all()
        return b""

    def _watch(self, payload: bytes) -> Iterator[bytes]:
        """Says a failure once there is one. The caller's disappearance closes this generator."""
        who = json.loads(payload)["process"]
        with self._change:
            number = self._watches.get(who, 0)
        try:
            while True:
                with self._change:
                    if not self._failure:
                        self._change.wait(0.2)
                    said = self._told()
                yield said
                if said:
                    return
        finally:
            with self._change:
                if who not in self._left and not self._failure and number == self._watches.get(who, 0):
                    beat = self._beats.get(who, {"update": 0, "phase": "start"})
                    self._set_failure(f"process {who} was lost: its connection ended at {_where(beat)}")

    def _fetch(self, payload: bytes) -> bytes:
        asked = json.loads(payload)
        with self._change:
            make = self._leaves.get(asked["name"])
        if make is None:
            raise KeyError(f"the chief has no leaf {asked['name']!r}")
        with self._reading:
            if self._last_leaf[0] != asked["name"]:
                self._last_leaf = (asked["name"], make())
            return self._last_leaf[1][asked["offset"] : asked["offset"] + _CHUNK]


class Peers:
    """This process's side of the rendezvous and of the watch.

    Args:
      address: 'host:port' of the chief.
      process_id, num_processes: who this is, of how many.
      connect_timeout: seconds to wait for the others at the first gather.
      limits: seconds without progress allowed in each phase; other phases have `timeout_seconds`.
      timeout_seconds: silence after which a peer is lost.

    Raises:
      UsageError: this is process 0 and the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        process_id: int,
        num_processes: int,
        *,
        connect_timeout: float,
        timeout_seconds: float,
        limits: dict[str, float] | None = None,
    ) -> None:
        self.process_id = process_id
        self.num_processes = num_processes
        self._address = address
        self._connect_timeout = connect_timeout
        self._timeout = timeout_seconds
        self._limits = limits or {}
        self._token = uuid.uuid4().hex
        self._update, self._phase = 0, "start"
        self._closing = threading.Event()
        self._found: str = ""
        self._watch_over = threading.Event()
        self._watched = False
        self.watching = False  # lives are tied
        self.chief: Chief | None = None
        if process_id == 0:
            try:
                self.chief = Chief(address, num_processes, timeout_seconds)
            except OSError as e:
                raise UsageError(f"Process 0 cannot serve at --coordinator_address={address}: {e}.") from e
        self._client = Client(address)

    def gather(self, name: str, value: Any, timeout: float | None = None) -> list[Any]:
        """Collective: every process's JSON value, in order of process id. Blocks until all have come.

        Raises:
          UsageError: at the start, somebody did not come in time or the chief cannot be reached.
          PeerError: the same later, or another process failed or was lost.
        """
        timeout = self._connect_timeout if timeout is None else timeout
        payload = {"name": name, "process": self.process_id, "token": self._token, "value": value, "timeout": timeout}
        begin = time.monotonic()
        try:
            reply = self._client.call("gather", json.dumps(payload).encode(), timeout=timeout + 5, wait=True)
        except CallError as e:
            if self._watched and (e.late or e.lost):
                raise PeerError(f"process 0 was lost: no answer from {self._address} to {name!r}") from None
            if e.late or e.lost:
                raise UsageError(
                    f"Process 0 could not be reached at --coordinator_address={self._address} within "
                    f"{time.monotonic() - begin:.0f} s: is it running, and is that its address and port?"
                ) from None
            said = json.loads(str(e))
            if said["code"] == 75:
                raise Preempted(said["text"]) from None
            if said["code"] != 2:
                raise PeerError(said["text"]) from None
            text = said["text"].rstrip(".")
            if self.chief is not None:
                time.sleep(2 * BEAT_SECONDS)  # for the others' answers to leave before this process does
            raise UsageError(f"The {self.num_processes} processes cannot start together: {text}.") from None
        return json.loads(reply)

    def agree(self, name: str, facts: dict[str, Any], timeout: float | None = None) -> None:
        """Collective: refuses to go on unless all processes have equal `facts`.

        Raises:
          UsageError: they differ; says which fields, by process.
        """
        differing = _differences(self.gather(name, facts, timeout))
        if differing:
            raise UsageError(f"The processes do not agree on {name}: {'; '.join(differing)}.")

    def start_watch(self) -> None:
        """From now on this process ends with exit code 1 when a peer is lost, fails or stands still."""
        if self._watched:
            self._ask("come_back", json.dumps({"process": self.process_id}).encode(), self._timeout)
        if self.chief is not None:
            self.chief.announce_phase(-1)
        self.watching = self._watched = True
        self._watch_over = over = threading.Event()
        threading.Thread(target=self._beat_forever, args=(over,), name="beat", daemon=True).start()
        threading.Thread(target=self._listen, args=(over,), name="watch", daemon=True).start()

    def stop_watch(self) -> None:
        """From now on a lost peer does not concern this process; what all are to do together must be done.

        Raises:
          PeerError: process 0 gives no answer.
        """
        self._ask("leave", json.dumps({"process": self.process_id}).encode(), self._timeout)
        self.watching = False
        self._watch_over.set()  # after it is known that this process has left, not lost

    def announce_phase(self, phase: int) -> None:
        """On the chief: lets processes that are started again into `phase`. Elsewhere nothing."""
        if self.chief is not None:
            self.chief.announce_phase(phase)

    def phase_under_way(self) -> int:
        """What the chief has announced; -1: nothing, because lives are tied.

        Raises:
          PeerError: the chief gives no answer.
        """
        return json.loads(self._ask("phase", b"", self._timeout))

    def say_or_hear(self, name: str, value: Any, timeout: float) -> Any:
        """The chief's value: said by it at once, heard by the others when it has said it. For lives that are apart.

        Raises:
          PeerError: the chief failed, was lost or said nothing for `timeout` seconds.
          Preempted: it was stopped after saving.
        """
        if self.chief is not None:
            self.chief.say(name, value)
            return value
        return json.loads(self._ask("hear", json.dumps({"name": name, "timeout": timeout}).encode(), timeout + 5))

    def _ask(self, name: str, payload: bytes, timeout: float) -> bytes:
        try:
            return self._client.call(name, payload, timeout=timeout)
        except CallError as e:
            if e.late or e.lost:
                raise PeerError(f"process 0 was lost: no answer from {self._address} to {name!r}") from None
            said = json.loads(str(e))
            raise (Preempted if said["code"] == 75 else PeerError)(said["text"]) from None

    def progress(self, update: int) -> None:
        """Notes that this process has completed `update`."""
        self._update = update

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Notes that this process is in a phase with a limit of its own."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def fail(self, text: str, code: int = 1) -> None:
        """Tells the others why this process is about to end, and with which exit code; they end with the same."""
        self._closing.set()
        said = {"process": self.process_id, "text": text, "code": code}
        with contextlib.suppress(CallError):
            self._client.call("fail", json.dumps(said).encode(), timeout=5)
        if self.chief is not None:
            time.sleep(2 * BEAT_SECONDS)  # for the others to hear it from this process before it is gone

    def diagnose(self, error: BaseException) -> PeerError | None:
        """After a collective failed: waits for the watch to name the peer, and returns that as an error."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            if self._found:
                return PeerError(f"{self._found} ({type(error).__name__} in process {self.process_id})")
            time.sleep(0.05)
        return None

    def fetch(self, name: str) -> bytes:
        """The bytes of one leaf that the chief serves. Blocks."""
        parts: list[bytes] = []
        size = 0
        while not parts or len(parts[-1]) == _CHUNK:
            asked = json.dumps({"name": name, "offset": size}).encode()
            parts.append(self._client.call("fetch", asked, timeout=self._connect_timeout))
            size += len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Leaves the run in good order; idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(CallError):
            self._client.call("leave", json.dumps({"process": self.process_id}).encode(), timeout=5)
        if self.chief is not None:
            self.chief.close()
        self._client.close()

    def _beat_forever(self, over: threading.Event) -> None:
        heard = time.monotonic()
        while not (over.is_set() or self._closing.is_set()):
            beat = {
                "process": self.process_id,
                "update": self._update,
                "phase": self._phase,
                "limit": self._limits.get(self._phase, self._timeout),
            }
            try:
                said = self._client.call("beat", json.dumps(beat).encode(), timeout=self._timeout)
                heard = time.monotonic()
                if said and not over.is_set():
                    self._end(**json.loads(said))
            except CallError as e:
                if over.is_set():
                    return
                if e.late or time.monotonic() - heard > self._timeout:
                    self._end(f"process 0 was lost: nothing heard from {self._address} for {self._timeout:g} s")
            self._closing.wait(BEAT_SECONDS)

    def _listen(self, over: threading.Event) -> None:
        heard = self._client.listen("watch", json.dumps({"process": self.process_id}).encode())
        try:
            for said in heard:
                if over.is_set():
                    return
                if said and not self._closing.is_set():
                    self._end(**json.loads(said))
        except CallError:
            if over.is_set():
                return
            self._end(f"process 0 was lost: the connection to {self._address} ended")

    def _end(self, text: str, code: int = 1) -> None:
        """Ends the process from a watching thread: the main thread may be blocked in C++ for good."""
        if self._closing.is_set():
            return
        self._found = text
        if self.chief is not None:
            self._closing.wait(3 * BEAT_SECONDS)  # the others must hear the reason before the connection ends
            if self._closing.is_set():
                return
        # Output may block (a full pipe, a logging lock held elsewhere); the end must not.
        last_resort = threading.Timer(2.0, os._exit, (code,))
        last_resort.daemon = True
        last_resort.start()
        where = f"update {self._update}, {self._phase}" if self._phase != "train" else f"update {self._update}"
        message = f"jaxdist: error: process {self.process_id} ends at {where}: {text.rstrip('.')}."
        logging.error(message)
        print(message, file=sys.stderr, flush=True)
        os._exit(code)


def _refusal(text: str, code: int) -> ValueError:
    """What a caller is told in place of an answer: the text, and the exit code it is worth."""
    return ValueError(json.dumps({"text": text, "code": code}))


def _processes(ids: list[int]) -> str:
    return f"process{'es' if len(ids) > 1 else ''} {', '.join(map(str, ids))}"


def _where(beat: dict[str, Any]) -> str:
    return f"update {beat['update']}" + ("" if beat["phase"] == "train" else f" ({beat['phase']})")


def _differences(facts: list[dict[str, Any]]) -> list[str]:
    found = []
    for key in sorted(set().union(*facts)):
        by_value: dict[str, list[int]] = {}
        for i, fact in enumerate(facts):
            by_value.setdefault(json.dumps(fact.get(key)), []).append(i)
        if len(by_value) > 1:
            found.append(f"{key} is " + " but ".join(f"{v} on {_processes(ids)}" for v, ids in by_value.items()))
    return found
