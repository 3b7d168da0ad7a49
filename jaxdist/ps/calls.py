"""A client's calls to all the servers: with a deadline each, and sent again while a server gives no answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc

from jaxdist.comm.security import Security
from jaxdist.errors import PeerError
from jaxdist.ps import wire
from jaxdist.ps.errors import Ended, Lost, as_process_error
from jaxdist.ps.rpc import Stub
from jaxdist.ps.timing import LONG_POLL_SECONDS

CALL_SECONDS = LONG_POLL_SECONDS + 8.0
_SLOWEST = 64 * 2**10  # bytes a second: of a worker's share of the slowest link that is worth waiting for


def seconds_for(size: int) -> float:
    """How long calls may take that bring so many bytes, one after the other over one link.

    A server that is gone is noticed long before, by its connection. A call that is sent again although it was on its
    way makes a slow link slower: with a fixed limit nothing at all would arrive.
    """
    return CALL_SECONDS + size / _SLOWEST


def size_of(name: str, data: Any) -> int:
    """Bytes that a call brings, there and back, at most."""
    return len(memoryview(data).cast("B")) + (wire.CHUNK if name in ("Pull", "PushPull") else 0)


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
        self.stubs = [Stub(a, security, timeout_seconds) for a in addresses]
        self._signs = Stub(addresses[0], security, timeout_seconds)
        self._heard = time.monotonic()
        self.retries = 0
        self.heartbeats: threading.Thread | None = None
        self.trouble: Exception | None = None
        self._closing = threading.Event()

    def call(
        self, server: int, name: str, message: Any, data: Any = b"", *, patience: float | None = None
    ) -> tuple[Any, memoryview]:
        """One call to a server, sent again after a growing and jittered pause while the server gives no answer. Blocks.

        Raises:
          PeerError: no answer for `patience` seconds, or the run failed.
          UsageError, Preempted: the run has ended with that code.
          Fenced: join again.
          Refused: the values do not fit; the text says why.
        """
        patience = self.timeout_seconds if patience is None else patience
        return self._call(self.stubs[server], server, name, message, data, patience)

    def heartbeat(self, message: Any) -> Any:
        """A sign of life to server 0; its reply. Blocks, and raises, as `call`. By a connection of its own: over a slow
        link it would wait behind bulk data for longer than the lease of its session."""
        reply, _ = self._call(self._signs, 0, "Heartbeat", message, b"", self.timeout_seconds)
        self._heard = time.monotonic()
        return reply

    def _call(
        self, stub: Stub, server: int, name: str, message: Any, data: Any, patience: float
    ) -> tuple[Any, memoryview]:
        begin, pause, size = time.monotonic(), 0.05, size_of(name, data)
        while True:
            left = max(patience - (time.monotonic() - begin), 0.5)
            try:
                return stub.call(name, message, data, timeout=seconds_for(size) if size else min(CALL_SECONDS, left))
            except Ended as e:
                raise as_process_error(e) from None
            except Lost as e:
                if self.trouble is not None and threading.current_thread() is not self.heartbeats:
                    raise self.trouble from None  # server 0 has given the reason why nobody answers
                if size and server == 0 and not e.late:  # the connection broke while bytes were on their way
                    begin = max(begin, self._heard)
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
        seconds = seconds_for(sum(size_of(name, data) for _, name, _, data in calls))
        futures = [self.stubs[s].send(n, m, d, timeout=seconds) for s, n, m, d in calls]
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

    def send_to_others(self, name: str, message: Any) -> list[grpc.Future]:
        """Starts a call to each server but 0, and does not block; `receive` of their stubs takes the results."""
        others = self.stubs[1:]
        seconds = seconds_for(len(others) * size_of(name, b""))
        return [stub.send(name, message, timeout=seconds) for stub in others]

    def stop_retrying(self) -> None:
        """Calls under way fail at their next missing answer. Never blocks."""
        self._closing.set()

    def close(self) -> None:
        """Closes the connections; idempotent."""
        self._closing.set()
        for stub in (*self.stubs, self._signs):
            stub.close()
