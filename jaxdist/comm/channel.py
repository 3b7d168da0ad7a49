"""Arrays from process to process, in order, over TCP connections of their own.

    frame    | magic 4 bytes | header bytes u32 | body bytes u64 | header | body |

The stages of a pipeline exchange megabytes many times a step. A plain socket moves them without a copy on the way out
and with one on the way in, at a fraction of what gRPC costs the same cores (experiments/results/pipeline.md).
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdist.comm.addresses import split
from jaxdist.comm.encrypted import EncryptedSocket
from jaxdist.comm.ports import Ports
from jaxdist.comm.security import OPEN, Security, same
from jaxdist.runtime import profiler

_MAGIC = b"jxd1"
_PREFIX = struct.Struct("<4sIQ")
_MAX_HEADER = 2**25  # an evaluation's metrics may be of many numbers: a confusion matrix of 1000 classes
_MAX_HANDSHAKE = 2**10
_HANDSHAKE_SECONDS = 5.0
_ALIGNMENT = 64  # XLA's CPU backend takes such a buffer over without copying it
_WAITING = 64  # frames that may wait to be taken before the sender is slowed down


class ChannelError(Exception):
    """A connection ended, spoke another language, or nothing came in time."""


class Frame:
    """What one `send` brought: a header (JSON) and the bytes of one array."""

    def __init__(self, header: dict[str, Any], body: np.ndarray) -> None:
        self.header = header
        self._body = body

    def array(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """The body as an array, without a copy.

        Raises:
          ChannelError: it has another size.
        """
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self._body.nbytes != expected:
            raise ChannelError(f"{self._body.nbytes} bytes came where {expected} were expected")
        return self._body.view(dtype).reshape(shape)


class Channel:
    """One end of a connection: sends and receives frames on threads of its own. Not shared by several callers."""

    def __init__(self, connection: socket.socket | EncryptedSocket, name: str, max_bytes: int) -> None:
        """`name`: of the other end, for messages; `max_bytes`: the largest body that is believed."""
        self.name = name
        self._socket, self._max_bytes = connection, max_bytes
        connection.settimeout(None)
        if connection.family != socket.AF_UNIX:  # which is what tests use
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._outgoing: queue.SimpleQueue[tuple[bytes, Callable[[], np.ndarray]] | None] = queue.SimpleQueue()
        self._incoming: queue.Queue[Frame | ChannelError] = queue.Queue(_WAITING)
        self._failure: ChannelError | None = None
        self._closing = False
        self._threads = [
            threading.Thread(target=self._send_forever, name=f"to {name}", daemon=True),
            threading.Thread(target=self._receive_forever, name=f"from {name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def send(self, header: Mapping[str, Any], body: Callable[[], np.ndarray]) -> None:
        """Queues a frame; does not block. `body` is called on the sending thread (it may wait for a device), and what
        it returns must not change afterwards.

        Raises:
          ChannelError: an earlier frame could not be sent.
        """
        if self._failure is not None:
            raise self._failure
        self._outgoing.put((json.dumps(dict(header)).encode(), body))

    def receive(self, timeout: float) -> Frame:
        """The next frame; blocks for `timeout` seconds at most.

        Raises:
          ChannelError: the connection has ended, or nothing came.
        """
        try:
            found = self._incoming.get(timeout=timeout)
        except queue.Empty:
            raise ChannelError(f"nothing came from {self.name} for {timeout:g} s") from None
        if isinstance(found, ChannelError):
            self._incoming.put(found)  # for whoever asks again
            raise found
        return found

    def close(self, seconds: float = 5.0) -> None:
        """Sends what is queued, for `seconds` at most, and ends the connection; idempotent."""
        if self._closing:
            return
        self._closing = True
        self._outgoing.put(None)
        self._threads[0].join(seconds)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send_forever(self) -> None:
        try:
            while (found := self._outgoing.get()) is not None:
                header, body = found
                data = np.ascontiguousarray(body())
                view = data.reshape(-1).view(np.uint8).data
                with profiler.span(profiler.SEND):
                    self._socket.sendall(_PREFIX.pack(_MAGIC, len(header), len(view)) + header)
                    self._socket.sendall(view)
        except Exception as e:  # of the socket, or of what was to be computed
            self._failure = ChannelError(f"sending to {self.name} failed: {e}")
            with contextlib.suppress(queue.Full):
                self._incoming.put_nowait(self._failure)

    def _receive_forever(self) -> None:
        try:
            while True:
                magic, header_size, body_size = _PREFIX.unpack(self._read(_PREFIX.size).data)
                if magic != _MAGIC or header_size > _MAX_HEADER or body_size > self._max_bytes:
                    raise ChannelError(
                        f"what came from {self.name} is no frame of this program (a header of {header_size} bytes, a "
                        f"body of {body_size})"
                    )
                header = json.loads(self._read(header_size).tobytes())
                self._incoming.put(Frame(header, self._read(body_size)))
        except ChannelError as e:
            self._incoming.put(e)
        except Exception as e:  # of the socket, the header, or for want of memory
            self._incoming.put(ChannelError(f"the connection to {self.name} ended ({e})"))

    def _read(self, size: int) -> np.ndarray:
        """uint8 [size], aligned."""
        buffer = _aligned(size)
        view, got = buffer.data, 0
        while got < size:
            count = self._socket.recv_into(view[got:])
            if not count:
                raise ChannelError(f"the connection to {self.name} ended")
            got += count
        return buffer


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]


class ChannelListener:
    """Where the channels of one process begin: it accepts those that others open, and opens some itself.

    Args:
      host: the interface to listen at; '' for all.
      token: a secret of the run; who does not know it is turned away.
      max_bytes: the largest body that is believed.
      ports: where it may listen.
      security: what encrypts the connections; `token` is what callers are asked for.

    Raises:
      UsageError: a channel cannot listen here for want of a port, or of a certificate.
    """

    def __init__(
        self, token: str, max_bytes: int, host: str = "", ports: Ports | None = None, security: Security = OPEN
    ) -> None:
        security.check_certificate("A stage of a pipeline")
        self._token, self._max_bytes, self._security = token, max_bytes, security
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = (ports or Ports()).first(
            lambda port: socket.create_server((host, port), family=family), "a channel"
        )
        self.port = self._listener.getsockname()[1]

    def open(self, address: str, name: str, label: str, seconds: float) -> Channel:
        """A channel to the listener at `address` ('host:port'). Blocks until it listens.

        Args:
          name: of the other end, for messages.
          label: which of the channels that it expects this one is.

        Raises:
          ChannelError: not within `seconds`, or another than the certificate is for listens there.
        """
        host, port = split(address)
        deadline = time.monotonic() + seconds
        while True:
            try:
                return Channel(
                    self._call(host, port, label, max(deadline - time.monotonic(), 0.1)), name, self._max_bytes
                )
            except ssl.SSLError as e:
                raise ChannelError(f"{name} at {address} cannot be spoken to by TLS ({e})") from None
            except OSError as e:
                if time.monotonic() > deadline:
                    raise ChannelError(f"{name} could not be reached at {address} ({e})") from None
                time.sleep(0.1)

    def _call(self, host: str, port: int, label: str, seconds: float) -> socket.socket | EncryptedSocket:
        """A connection whose other end knows the label."""
        with contextlib.ExitStack() as failing:
            plain = failing.enter_context(socket.create_connection((host, port), seconds))
            context = self._security.calling_context
            connection = plain if context is None else EncryptedSocket(plain, context, seconds=seconds, expected=host)
            handshake = json.dumps({"token": self._token, "label": label}).encode()
            connection.sendall(_PREFIX.pack(_MAGIC, len(handshake), 0) + handshake)
            failing.pop_all()
            return connection

    def accept(self, expected: Mapping[str, str], seconds: float) -> dict[str, Channel]:
        """{label: channel} for every label of `expected`, whose values are the names of the other ends. Blocks until
        all have come; who makes no proper handshake is turned away.

        Raises:
          ChannelError: not all within `seconds`.
        """
        deadline = time.monotonic() + seconds
        found: dict[str, Channel] = {}
        while missing := sorted(set(expected) - set(found)):
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self._listener.settimeout(left)
                connection, _ = self._listener.accept()
            except TimeoutError:
                absent = ", ".join(expected[label] for label in missing)
                raise ChannelError(f"no connection came from {absent} for {seconds:g} s") from None
            except OSError as e:
                raise ChannelError(f"no connection could be taken: {e}") from None
            label, opened = self._shake_hands(connection, min(left, _HANDSHAKE_SECONDS))
            if label in missing:
                found[label] = Channel(opened, expected[label], self._max_bytes)
            else:
                connection.close()
        return found

    def _shake_hands(self, connection: Any, seconds: float) -> tuple[str, Any]:
        """The label that the other end gives, and the connection to use from now on; '' from a stranger, or one that
        takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        try:
            if self._security.listening_context is not None:
                connection = EncryptedSocket(connection, self._security.listening_context, seconds=seconds)
            magic, size, body = _PREFIX.unpack(_exactly(connection, _PREFIX.size, deadline))
            if magic != _MAGIC or size > _MAX_HANDSHAKE or body:
                return "", connection
            handshake = json.loads(_exactly(connection, size, deadline))
            return (handshake["label"] if same(handshake["token"], self._token) else ""), connection
        except Exception as e:  # whatever a stranger sends
            logging.info("A connection was turned away: %s: %s", type(e).__name__, e)
            return "", connection

    def close(self) -> None:
        self._listener.close()


def _exactly(connection: Any, size: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while size:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
