"""A client's calls to all the servers: with a deadline each, and sent again while a server gives no answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

from jaxdist.comm.security import Security
from jaxdist.errors import PeerError
from jaxdist.ps.errors import Ended, Lost, as_process_error
from jaxdist.ps.rpc import Stub
from jaxdist.ps.timing import LONG_POLL_SECONDS

CALL_SECONDS = LONG_POLL_SECONDS + 8.0


class Calls:
    """Thread-safe.

    Args:
      addresses: of all servers, in order.
      timeout_seconds: how long a server may give no answer before it is given up.

    Attributes:
      retries: how often a call was sent again.
      heartbeats: the thread that sends the signs of life.
      trouble: what it met: the reason why nobody answers the other threads.
    """

    def __init__(self, addresses: Sequence[str], security: Security, timeout_seconds: float) -> None:
        self.addresses = list(addresses)
        self.timeout_seconds = timeout_seconds
        self.stubs = [Stub(a, security) for a in addresses]
        self.retries = 0
        self.heartbeats: threading.Thread | None = None
        self.trouble: Exception | None = None
        self._closing = threading.Event()

    def call(
        self, server: int, name: str, message: Any, data: Any = b"", *, patience: float | None = None
    ) -> tuple[Any, memoryview]:
        """One call, sent again after a growing and jittered pause while the server gives no answer. Blocks.

        Raises:
          PeerError: no answer for `patience` seconds, or the run failed.
          UsageError, Preempted: the run has ended with that code.
          Fenced: join again.
          Refused: the values do not fit; the text says why.
        """
        patience = self.timeout_seconds if patience is None else patience
        begin, pause = time.monotonic(), 0.05
        while True:
            left = max(patience - (time.monotonic() - begin), 0.5)
            try:
                return self.stubs[server].call(name, message, data, timeout=min(CALL_SECONDS, left))
            except Ended as e:
                raise as_process_error(e) from None
            except Lost as e:
                if self.trouble is not None and threading.current_thread() is not self.heartbeats:
                    raise self.trouble from None  # server 0 has given the reason why nobody answers
                silent = time.monotonic() - begin
                if silent + pause > patience or self._closing.is_set():
                    where = f"the parameter server {server} at {self.addresses[server]}"
                    raise PeerError(f"{where} gave no answer for {silent:.0f} s ({e})") from None
                self.retries += 1
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, 2.0)

    def call_all(self, calls: Sequence[tuple[int, str, Any, Any]]) -> list[tuple[Any, memoryview]]:
        """Calls (server, name, message, data) at once; those that get no answer are sent again. Blocks.

        Raises:
          As `call` does.
        """
        futures = [self.stubs[s].send(n, m, d, timeout=CALL_SECONDS) for s, n, m, d in calls]
        replies: list[tuple[Any, memoryview]] = []
        for (server, name, message, data), future in zip(calls, futures, strict=True):
            try:
                replies.append(self.stubs[server].receive(name, future))
            except Lost:
                self.retries += 1
                replies.append(self.call(server, name, message, data))
            except Ended as e:
                raise as_process_error(e) from None
        return replies

    def stop_retrying(self) -> None:
        """Calls under way fail at their next missing answer. Never blocks."""
        self._closing.set()

    def close(self) -> None:
        """Closes the connections; idempotent."""
        self._closing.set()
        for stub in self.stubs:
            stub.close()
