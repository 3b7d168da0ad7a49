"""Taking part in a run: joining it and joining again, and the heartbeats that bring its news.

join ----> session ----> heartbeats, calls ----> Fenced: the session is over ----> rejoin ----> a new one
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxdist.errors import PeerError, UsageError
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.calls import Calls
from jaxdist.ps.errors import Fenced, Refused
from jaxdist.ps.results import Progress
from jaxdist.ps.timing import HEARTBEAT_SECONDS

T = TypeVar("T")


class Session:
    """A process's present session, and what its heartbeats report. Thread-safe.

    Args:
      worker: its number; -1 for an evaluator.
      request: what it joins with.
      connect_seconds: for the chief to begin.

    Attributes:
      caller: names the session in every call; another one after each join.
      claims: how many were handed out to this session.
      progress: of the run, as of the last reply that contained it.
      evaluator: whether there is one.
      report: to the chief, of all workers (`Sequencer.report`).
    """

    def __init__(self, calls: Calls, worker: int, request: pb.JoinRequest, connect_seconds: float) -> None:
        self._calls, self._request = calls, request
        self.worker, self.connect_seconds = worker, connect_seconds
        self.caller = pb.Caller()
        self.claims = 0
        self.progress = Progress()
        self.evaluator = False
        self.report: dict[str, Any] = {}
        self._joining = threading.Lock()
        self._heartbeat_lock = threading.Lock()
        self._silent = threading.Event()
        self._away = False
        self._events_from = self._evaluations_from = 0
        self._reported: set[str] = set()  # servers that have gone back report some things twice
        self._events: list[dict[str, Any]] = []
        self._evaluations: list[dict[str, Any]] = []

    def join(self) -> dict[str, Any]:
        """Takes part; returns the run's settings. Blocks until the chief has begun; heartbeats are sent from then on.

        Raises:
          UsageError: the servers refuse this process.
          PeerError: the chief did not begin in time, or a server gave no answer.
        """
        try:
            reply, _ = self._calls.call(0, "Join", self._request, patience=self.connect_seconds)
        except Refused as e:
            raise UsageError(f"This process cannot take part: {e}.") from None
        self.claims = 0
        self.caller = reply.caller
        self.progress = Progress.of(reply.progress)
        if self._calls.heartbeats is None:
            self._calls.heartbeats = threading.Thread(target=self._heartbeat_forever, name="heartbeat", daemon=True)
            self._calls.heartbeats.start()
        return json.loads(reply.settings)

    def rejoin(self, session_over: pb.Caller) -> None:
        """Joins again, unless another thread has done so since `session_over`. Blocks until it is let in.

        Raises:
          PeerError: the servers do not let it in, or give no answer.
        """
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
                    if time.monotonic() - begin > self._calls.timeout_seconds:
                        raise PeerError(f"the servers did not let worker {self.worker} join again") from None
                    time.sleep(0.2)

    def in_session(self, call: Callable[[pb.Caller], T]) -> T:
        """What `call` returns for the present session; called again in a new one where that session is over. Blocks.

        Raises:
          PeerError: see `rejoin`; and whatever `call` raises but `Fenced`.
        """
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

    # Signs of life.

    def heartbeat(self, away: bool | None = None) -> None:
        """Sends a sign of life and takes what server 0 reports; `away`: whether this worker is away from now on.

        Blocks for the answer.

        Raises:
          As `Calls.call` does.
        """
        with self._heartbeat_lock:
            if away is not None:
                self._away = away
            request = pb.HeartbeatRequest(
                caller=self.caller,
                away=self._away,
                events_from=self._events_from,
                evaluations_from=self._evaluations_from,
            )
            reply = self._calls.heartbeat(request)
            self.progress = Progress.of(reply.progress)
            self.evaluator = reply.evaluator
            self._events_from += len(reply.events)
            self._evaluations_from += len(reply.evaluations)
            self._events += [json.loads(e) for e in reply.events if e not in self._reported]
            self._evaluations += [json.loads(e) for e in reply.evaluations if e not in self._reported]
            self._reported |= {*reply.events, *reply.evaluations}
            if reply.reports:
                self.report = json.loads(reply.reports)

    def _heartbeat_forever(self) -> None:
        while not self._silent.wait(HEARTBEAT_SECONDS):
            caller = self.caller
            try:
                self.heartbeat()
            except Fenced:  # workers join again when they push; an evaluator has nothing else to notice it by
                if self.worker < 0:
                    with contextlib.suppress(Exception):
                        self.rejoin(caller)
            except Exception as e:  # whoever needs an answer asks, and gets this error
                self._calls.trouble = e

    def stop_heartbeats(self) -> None:
        """Gives no more signs of life. Blocks for the one under way, for a second at most; idempotent."""
        self._silent.set()
        thread = self._calls.heartbeats
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2 * HEARTBEAT_SECONDS)

    def check_alive(self) -> None:
        """Never blocks.

        Raises:
          PeerError, Preempted, UsageError: what the last heartbeats met.
        """
        if self._calls.trouble is not None:
            raise self._calls.trouble

    def take_events(self) -> list[dict[str, Any]]:
        """The events since the last call, in order. Blocks for a heartbeat under way."""
        with self._heartbeat_lock:
            taken, self._events = self._events, []
            return taken

    def take_evaluations(self) -> list[dict[str, Any]]:
        """The evaluator's rows since the last call, in order. Blocks for a heartbeat under way."""
        with self._heartbeat_lock:
            taken, self._evaluations = self._evaluations, []
            return taken

    def post_evaluation(self, row: Mapping[str, Any]) -> None:
        """From an evaluator, for the chief. Blocks for the answer.

        Raises:
          As `in_session` and `Calls.call` do.
        """
        text = json.dumps(dict(row))
        self.in_session(lambda caller: self._calls.call(0, "Post", pb.PostRequest(caller=caller, text=text)))

    def leave(self, report: Any, patience: float | None = None) -> None:
        """Goes in good order. Blocks for the answer, `patience` seconds at most (None: as any call).

        Raises:
          PeerError, UsageError, Preempted: a server gave no answer, or the run has ended.
        """
        with contextlib.suppress(Fenced, Refused):
            self._calls.call(0, "Leave", pb.PostRequest(caller=self.caller, text=json.dumps(report)), patience=patience)
