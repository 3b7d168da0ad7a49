"""From server 0 to each of the others: the operations, in their one order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jaxdist.comm.security import Security
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced, Lost
from jaxdist.ps.rpc import Stub


class OperationReplicator:
    """Sends server 0's operations to another server, in order, until they have arrived. Thread-safe.

    Args:
      ask_rollback: called when the other server is of another incarnation, or lacks operations; must not block.

    Attributes:
      status: the other server's last answer to the monitor, of this incarnation.
      boot: of the other server, as the monitor knows it.
    """

    def __init__(self, address: str, security: Security, ask_rollback: Callable[[], None]) -> None:
        self.stub = Stub(address, security)
        self.status: pb.StatusReply | None = None
        self.boot = ""
        self._ask_rollback = ask_rollback
        self._change = threading.Condition()
        self._closed = False
        self.reset("", 0)

    def reset(self, run: str, incarnation: int) -> None:
        """Forgets what is not sent; numbers begin again."""
        with self._change:
            self._run, self._incarnation, self._first = run, incarnation, 0
            self._waiting: list[pb.Operation] = []
            self.status = None

    def put(self, operation: pb.Operation) -> None:
        """The next operation to send. Called with the server's lock, for their order; does not wait for the sending."""
        with self._change:
            self._waiting.append(operation)
            self._change.notify()

    def run(self) -> None:
        """The work of one thread: blocks until closed, or until the run has ended on the other server."""
        pause = 0.05
        while not self._closed:
            with self._change:
                while not self._waiting and not self._closed:
                    self._change.wait(1.0)
                sending = list(self._waiting[:64])
                key = self._run, self._incarnation, self._first
            if not sending:
                continue
            try:
                run, incarnation, first = key
                request = pb.ApplyRequest(run=run, incarnation=incarnation, first=first, operations=sending)
                self.stub.call("Apply", request, timeout=10)
            except Lost:
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
                continue
            except Fenced:
                with self._change:
                    current = key == (self._run, self._incarnation, self._first)
                if current:
                    self._ask_rollback()
                time.sleep(0.2)
                continue
            except Ended:
                return
            pause = 0.05
            with self._change:
                if key == (self._run, self._incarnation, self._first):
                    self._first += len(sending)
                    del self._waiting[: len(sending)]

    def close(self) -> None:
        """Ends the thread; operations that were not sent are lost."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self.stub.close()
