"""A TLS connection for one thread that sends and another that receives.

    sendall --> tls.write --> outgoing --> socket         socket --> incoming --> tls.read --> recv_into
                      one lock around the two calls of tls, none around the socket

`ssl.SSLSocket` must not be used by two threads at once: both would be inside OpenSSL with one object.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time

_PIECE = 256 * 2**10


class EncryptedSocket:
    """What `comm.channel` uses of a socket, encrypted. Blocks for TLS's handshake when it is made.

    Args:
      seconds: that the handshake may take.
      expected: the host name or address that the other end's certificate must have; None for the end that listens.

    Raises:
      OSError: the connection ended, or nothing came in time; `ssl.SSLError`, a kind of it: the other end speaks no TLS,
        or its certificate is not signed by our authority or not for `expected`.
    """

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, *, seconds: float, expected: str | None = None
    ) -> None:
        deadline = time.monotonic() + seconds
        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=expected is None, server_hostname=expected
        )
        self._lock = threading.Lock()
        self.family = connection.family
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the TLS handshake took too long")
            connection.settimeout(left)
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                if not self._take():
                    raise ConnectionResetError("the connection ended during the TLS handshake") from None
            except ssl.SSLError:
                self._flush()  # the other end is told why
                raise
        self._flush()

    def sendall(self, data: bytes | memoryview) -> None:
        """Blocks until all is on its way. One thread at a time."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE):
            with self._lock:
                self._tls.write(view[start : start + _PIECE])
            self._flush()

    def recv_into(self, buffer: memoryview) -> int:
        """Blocks for some bytes; 0 when the connection has ended. One thread at a time, and it never sends: what TLS
        has to say in reply goes out with the next `sendall`."""
        while True:
            try:
                with self._lock:
                    return int(self._tls.read(len(buffer), buffer))  # type: ignore[call-overload]
            except ssl.SSLWantReadError:
                if not self._take():
                    return 0
            except ssl.SSLZeroReturnError:
                return 0

    def recv(self, size: int) -> bytes:
        """The same, as bytes."""
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(memoryview(buffer))])

    def _take(self) -> bool:
        """Blocks for bytes of the socket; whether there were any."""
        data = self._socket.recv(_PIECE)
        with self._lock:
            self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        with self._lock:
            data = self._outgoing.read()
        if data:
            self._socket.sendall(data)

    # As of the socket.

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def setsockopt(self, *option: int) -> None:
        self._socket.setsockopt(*option)

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._socket.close()
