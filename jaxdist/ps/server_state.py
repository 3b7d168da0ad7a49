"""What the parts of one server share: one lock, and which run, incarnation and values it guards."""

from __future__ import annotations

import json
import logging
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced, NotNow
from jaxdist.ps.run_settings import Settings
from jaxdist.ps.sequencer import Sequencer
from jaxdist.ps.shard import Shard, UpdateRule
from jaxdist.ps.snapshots import Snapshots


class ServerState:
    """Written by the parts of a server with the lock, but for `rollback_asked` and, by a signal handler, `ended`.

    Attributes:
      changed: the lock; notified of everything that a caller may wait for.
      work: of the same lock; notified when the applier has an operation to apply.
      boot: differs each time the process is started.
      signature: the run signature, as the others' will look when they have been sent.
      run, incarnation: '' where none is served.
      sequencer: server 0's, between the beginning and the end of a run.
      begun: all values have come.
      rolling: back to a snapshot; nothing is served meanwhile.
      rollback_asked: the monitor is to go back to a snapshot.
      runs_forgotten: how many; who restores a shard outside the lock compares it before and after.
      heard: time of the last word from the chief or from server 0.
      end_asked: how the monitor is to end the run on all servers.
      ended: how this server ends.
      closing: set when it stops.
      writer: the one thread that writes snapshots, in order.
    """

    def __init__(
        self,
        index: int,
        addresses: Sequence[str],
        rule: UpdateRule,
        signature: Mapping[str, Any],
        folder: str | pathlib.Path,
    ) -> None:
        self.index, self.addresses = index, list(addresses)
        self.rule = rule
        self.signature = json.loads(json.dumps(dict(signature)))
        self.snapshots = Snapshots(folder)
        self.writer = ThreadPoolExecutor(1, "snapshot")
        self.boot = uuid.uuid4().hex
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        self.work = threading.Condition(lock)
        self.run, self.incarnation = "", 0
        self.shard: Shard | None = None
        self.sequencer: Sequencer | None = None
        self.settings: Settings | None = None
        self.begun = self.rolling = self.rollback_asked = False
        self.runs_forgotten = 0
        self.failure = ""
        self.heard = time.monotonic()
        self.end_asked: Ended | None = None
        self.ended: Ended | None = None
        self.closing = threading.Event()

    def check_caller(self, caller: pb.Caller) -> None:
        """Called with the lock.

        Raises:
          Ended, NotNow, Fenced: a caller of this run and incarnation cannot be answered, or it is of another.
        """
        if self.ended is not None:
            raise self.ended
        if self.rolling:
            raise NotNow("the servers go back to a snapshot")
        if not self.run:
            raise NotNow("no run has begun")
        if (caller.run, caller.incarnation) != (self.run, self.incarnation):
            raise Fenced(f"incarnation {caller.incarnation} is over; this is {self.incarnation}")

    def ready(self) -> tuple[Sequencer, Shard]:
        """What server 0 orders, and its values. Called with the lock.

        Raises:
          ValueError: this is another server.
          Ended, NotNow: there is no run to order.
        """
        if self.index != 0:
            raise ValueError(f"this is server {self.index}; server 0 answers that")
        if self.ended is not None:
            raise self.ended
        if self.rolling or self.sequencer is None or self.shard is None:
            raise NotNow("the run has not begun" if not self.rolling else "the servers go back to a snapshot")
        return self.sequencer, self.shard

    def loaded_shard(self) -> Shard:
        """This server's values. Called with the lock.

        Raises:
          Fenced: there are none.
        """
        if self.shard is None:
            raise Fenced("this server has no values: it was started again")
        return self.shard

    def ask_rollback(self) -> None:
        """Has the monitor go back to a snapshot. Takes no lock; never blocks."""
        self.rollback_asked = True

    def asked_to_end(self) -> Ended | None:
        """How the run is to end, if it is to. Called with the lock."""
        ended = self.sequencer.ended if self.sequencer is not None else None
        return ended or self.end_asked

    def finish(self, code: int, text: str) -> None:
        """Ends this server, once. Called with the lock."""
        if self.ended is None:
            self.ended = Ended(code, text)
        self.changed.notify_all()

    def guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, whose failure ends the server: a thread that fails must not leave one that looks alive.

        To be called without the lock, which it takes to report a failure.
        """

        def run() -> None:
            try:
                work()
            except Exception as e:
                if not self.closing.is_set():
                    logging.exception("The parameter server failed")
                    with self.changed:
                        self.failure = f"server {self.index} failed: {type(e).__name__}: {e}"
                        self.finish(1, self.failure)

        return run
