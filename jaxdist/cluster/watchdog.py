"""Who notices that a process is lost or does not advance, and ends the others while fate-sharing is on.

    process 0..N-1                               process 0
      heartbeat(update, activity, limit) ----->  every HEARTBEAT_SECONDS; the answer is a failure, or nothing
      watch()                            <-----  stays open: either side sees at once when the other dies

A process that finds another one lost or stuck while its own main thread is blocked inside a collective, in C++, cannot
raise there; a thread of the watchdog logs the reason and ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdist.cluster.calls import HEARTBEAT_SECONDS, CoordinatorClient
from jaxdist.cluster.membership import Membership
from jaxdist.cluster.rendezvous import name_processes
from jaxdist.comm.rpc import CallError, Method, Stream
from jaxdist.errors import PeerError
from jaxdist.runtime import last_words

PHASE_BOUNDARY = "switch"  # the activity between two phases of a run, as `phase_seconds` in the summary calls it


class WatchdogServer:
    """Process 0's side: takes heartbeats, judges by them, and passes failures on. Thread-safe.

    Args:
      timeout_seconds: without a heartbeat, after which a process is lost.
    """

    def __init__(self, membership: Membership, timeout_seconds: float) -> None:
        self._members, self._timeout = membership, timeout_seconds
        self._change = membership.change
        self._heartbeats: dict[int, dict[str, Any]] = {}  # process -> its last one
        self._rejoined: dict[int, int] = {}  # process -> how often

    @property
    def methods(self) -> dict[str, Method]:
        return {"heartbeat": self._heartbeat, "rejoin": self._rejoin}

    @property
    def streams(self) -> dict[str, Stream]:
        return {"watch": self._watch}

    def _heartbeat(self, payload: bytes) -> bytes:
        new = json.loads(payload)
        process = new["process"]
        with self._change:
            now = time.monotonic()
            before = self._heartbeats.get(process)
            stands = before is not None and _place(before) == _place(new)
            moved = before["moved"] if before is not None and stands else now
            self._heartbeats[process] = new | {"seen": now, "moved": moved}
            self._judge(now)
            return self._failure()

    def _judge(self, now: float) -> None:
        """Names the process whose heartbeats have stopped, or the one that holds everybody up."""
        if self._members.failure:
            return
        present = {i: last for i, last in self._heartbeats.items() if i not in self._members.left}
        for i, last in present.items():
            if now - last["seen"] > self._timeout:
                return self._members.set_failure(
                    f"process {i} was lost: no heartbeat for {self._timeout:g} s at {_where(last)}"
                )
        if present and all(now - last["moved"] > last["limit"] for last in present.values()):
            behind = min(last["update"] for last in present.values())
            slow = [i for i, last in present.items() if last["update"] == behind]
            limit = max(last["limit"] for last in present.values())
            self._members.set_failure(
                f"{name_processes(slow)} did not get past {_where(present[slow[0]])} within {limit:g} s "
                "(raise cluster.timeout_seconds if that is its ordinary pace)"
            )

    def _failure(self) -> bytes:
        """The run's failure as it travels; empty while there is none."""
        members = self._members
        return json.dumps({"code": members.code, "text": members.failure}).encode() if members.failure else b""

    def _rejoin(self, payload: bytes) -> bytes:
        """A process shares the others' fate again."""
        process = json.loads(payload)["process"]
        with self._change:
            self._members.left.discard(process)
            self._rejoined[process] = self._rejoined.get(process, 0) + 1
            self._heartbeats.pop(process, None)
        return b""

    def _watch(self, payload: bytes) -> Iterator[bytes]:
        """Yields a failure once there is one. The caller's disappearance closes this generator."""
        process = json.loads(payload)["process"]
        with self._change:
            number = self._rejoined.get(process, 0)
        try:
            while True:
                with self._change:
                    if not self._members.failure:
                        self._change.wait(0.2)
                    failure = self._failure()
                yield failure
                if failure:
                    return
        finally:
            with self._change:
                members = self._members
                current = number == self._rejoined.get(process, 0)  # not a stream of before it rejoined
                if process not in members.left and not members.failure and current:
                    last = self._heartbeats.get(process, {"update": 0, "activity": "start"})
                    members.set_failure(f"process {process} was lost: its connection ended at {_where(last)}")


class Watchdog:
    """A process's side: heartbeats and the watch stream, each on a thread, while fate-sharing is on.

    Args:
      limits: seconds without progress that an activity may take; others have `timeout_seconds`.
      timeout_seconds: without an answer, after which process 0 is lost.

    Attributes:
      active: between `start` and `stop`: fate-sharing is on.
    """

    def __init__(self, client: CoordinatorClient, *, limits: Mapping[str, float], timeout_seconds: float) -> None:
        self._client, self._limits, self._timeout = client, limits, timeout_seconds
        self._update, self._activity = 0, "start"
        self._reason = ""
        self._disarmed = threading.Event()
        self._stopped = threading.Event()  # of the threads that `start` has started last
        self.active = False

    def rejoin(self) -> None:
        """Before another `start`: lets process 0 count this process in again. Blocks for the answer.

        Raises:
          PeerError: process 0 gives no answer.
        """
        self._client.ask("rejoin", self._timeout)

    def start(self) -> None:
        """From now on this process ends when another one is lost, fails or stands still. Does not block."""
        self.active = True
        self._stopped = stopped = threading.Event()
        threading.Thread(target=self._send_heartbeats, args=(stopped,), name="heartbeat", daemon=True).start()
        threading.Thread(target=self._watch, args=(stopped,), name="watch", daemon=True).start()

    def stop(self) -> None:
        """From now on a lost process does not concern this one. Blocks for process 0's answer.

        Raises:
          PeerError: process 0 gives no answer.
        """
        self._client.ask("leave", self._timeout)
        self.active = False
        self._stopped.set()  # after it is known that this process has left, not lost

    def disarm(self) -> bool:
        """From now on the watchdog ends no process, for good; False where that was so already."""
        if self._disarmed.is_set():
            return False
        self._disarmed.set()
        return True

    def note_progress(self, update: int) -> None:
        """Notes that this process has completed `update`. Does not block."""
        self._update = update

    @contextlib.contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """While open, this process is busy with something that may have a time limit of its own."""
        before, self._activity = self._activity, name
        try:
            yield
        finally:
            self._activity = before

    def diagnose(self, error: BaseException) -> PeerError | None:
        """After a collective failed: the same as an error that names the process whose fault it is. Blocks until the
        watchdog knows, for `timeout_seconds` at most; None where it finds nothing."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            if self._reason:
                return PeerError(f"{self._reason} ({type(error).__name__} in process {self._client.process_id})")
            time.sleep(0.05)
        return None

    def _send_heartbeats(self, stopped: threading.Event) -> None:
        answered = time.monotonic()
        while not (stopped.is_set() or self._disarmed.is_set()):
            heartbeat = self._client.payload(
                update=self._update,
                activity=self._activity,
                limit=self._limits.get(self._activity, self._timeout),
            )
            # One answer that is lost is no lost process: there is time to ask again.
            patience = answered + self._timeout - time.monotonic()
            try:
                wait = min(max(patience, HEARTBEAT_SECONDS), max(self._timeout / 3, HEARTBEAT_SECONDS))
                failure = self._client.rpc.call("heartbeat", heartbeat, timeout=wait)
                answered = time.monotonic()
                if failure and not stopped.is_set():
                    self._end_process(**json.loads(failure))
            except CallError:
                if stopped.is_set():
                    return
                if time.monotonic() - answered >= self._timeout:
                    self._end_process(
                        f"process 0 was lost: no answer from {self._client.address} for {self._timeout:g} s"
                    )
            self._disarmed.wait(HEARTBEAT_SECONDS)

    def _watch(self, stopped: threading.Event) -> None:
        try:
            for failure in self._client.rpc.listen("watch", self._client.payload()):
                if stopped.is_set():
                    return
                if failure and not self._disarmed.is_set():
                    self._end_process(**json.loads(failure))
        except CallError:
            if stopped.is_set():
                return
            self._end_process(f"process 0 was lost: the connection to {self._client.address} ended")

    def _end_process(self, text: str, code: int = 1) -> None:
        """Ends the process from a thread of the watchdog: the main thread may be blocked in C++ for good."""
        if self._disarmed.is_set():
            return
        self._reason = text
        if self._client.is_chief:
            self._disarmed.wait(3 * HEARTBEAT_SECONDS)  # the others must get the reason before the connection ends
            if self._disarmed.is_set():
                return
        # Output may block (a full pipe, a logging lock held elsewhere); the end must not.
        last_resort = threading.Timer(2.0, os._exit, (code,))
        last_resort.daemon = True
        last_resort.start()
        where = f"update {self._update}" + (f", {self._activity}" if self._activity != "train" else "")
        words = f"process {self._client.process_id} ends at {where}: {text.rstrip('.')}."
        os._exit(last_words.say(code, words, alone=True))


def _place(heartbeat: Mapping[str, Any]) -> tuple[int, str]:
    return heartbeat["update"], heartbeat["activity"]


def _where(heartbeat: Mapping[str, Any]) -> str:
    update, activity = _place(heartbeat)
    return f"update {update}" + ("" if activity == "train" else f" ({activity})")
