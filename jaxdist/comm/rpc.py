"""Named calls from bytes to bytes over gRPC, without generated code.

A method is a plain function; what the bytes mean is the caller's affair. Every call has a deadline.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from functools import partial

import grpc

from jaxdist.comm.security import DENIED, OPEN, Security

_SERVICE = "jaxdist"
_CALLER = "jaxdist-caller"
_context: contextvars.ContextVar[grpc.ServicerContext] = contextvars.ContextVar("context")  # of the call being answered
_MAX_BYTES = 64 * 2**20
_OPTIONS = [("grpc.max_receive_message_length", _MAX_BYTES), ("grpc.max_send_message_length", _MAX_BYTES)]
DIRECTLY = ("grpc.enable_http_proxy", 0)
"""Of every channel: members of a run reach each other directly, whatever a company's web proxy is called."""

CONNECTING = (
    DIRECTLY,
    # Back-off starts small: processes come up within seconds of each other.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Also how long one attempt may take, 20 s by itself: one that a server took while it closed is answered by nobody.
    ("grpc.min_reconnect_backoff_ms", 4000),
)
"""Options of every channel."""

Method = Callable[[bytes], bytes]
Stream = Callable[[bytes], Iterator[bytes]]


class CallError(Exception):
    """A call failed: `lost` says whether the other side could not be reached (or went away), `denied` whether it asked
    for a token, else the method refused."""

    def __init__(self, message: str, lost: bool, late: bool = False, denied: bool = False) -> None:
        super().__init__(message)
        self.lost, self.late, self.denied = lost, late, denied


class Server:
    """Serves methods at an address until closed.

    Args:
      address: 'host:port'; port 0 takes a free one (see `port`).
      methods: name -> function, called on one of `threads` threads; what it raises is sent to the caller as text.
      streams: name -> function that yields replies for as long as the caller listens.
      admit: what is wrong with a call, by the method's name and what its `Client` says of itself; '' for nothing.
      silent_seconds: how long a connection may bring no answer before it is given up; gRPC's own 20 s end a stream
        over a link that is down for a moment.
      security: what callers must send, and what encrypts the connections.
      denied: called with the host of a caller that does not have the token.

    Raises:
      OSError: the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        methods: Mapping[str, Method],
        streams: Mapping[str, Stream] | None = None,
        threads: int = 8,
        admit: Callable[[str, str], str] = lambda method, caller: "",
        silent_seconds: float = 20.0,
        security: Security = OPEN,
        denied: Callable[[str], None] = lambda host: None,
    ) -> None:
        # Without SO_REUSEPORT a second server at the same address is an error instead of a silent half of the calls.
        options = [*_OPTIONS, ("grpc.so_reuseport", 0), ("grpc.keepalive_timeout_ms", int(1000 * silent_seconds))]
        self._server = grpc.server(futures.ThreadPoolExecutor(threads, "rpc"), options=options)

        def check(name: str, context: grpc.ServicerContext) -> None:
            if not security.admits(context):
                denied(_host_of(context.peer()))
                context.abort(grpc.StatusCode.UNAUTHENTICATED, DENIED)
            problem = admit(name, str(dict(context.invocation_metadata()).get(_CALLER, "")))
            if problem:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, problem)

        handlers = {
            name: grpc.unary_unary_rpc_method_handler(_answer(method, partial(check, name)))
            for name, method in methods.items()
        }
        for name, stream in (streams or {}).items():
            handlers[name] = grpc.unary_stream_rpc_method_handler(_answer_stream(stream, partial(check, name)))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self.port = security.open_port(self._server, address)
        self._server.start()

    def close(self, grace: float = 0.5) -> None:
        """Refuses new calls, waits `grace` seconds for those in flight, then ends them."""
        self._server.stop(grace).wait()


class Client:
    """Calls the methods of a `Server`; thread-safe.

    Args:
      caller: what it says of itself with each call (ASCII).
      security: what the server asks for.
    """

    def __init__(self, address: str, caller: str = "", security: Security = OPEN) -> None:
        self.address = address
        self._metadata = ((_CALLER, caller), *security.metadata)
        self._channel = security.open_channel(address, [*_OPTIONS, *CONNECTING])

    def call(self, name: str, payload: bytes = b"", *, timeout: float, wait: bool = False) -> bytes:
        """Blocks for the reply, `timeout` seconds at most; with `wait`, also until the server is up.

        Raises:
          CallError: no reply in time, the server cannot be reached, or the method raised.
        """
        method = self._channel.unary_unary(f"/{_SERVICE}/{name}")
        try:
            return method(payload, timeout=timeout, wait_for_ready=wait, metadata=self._metadata)
        except grpc.RpcError as e:
            raise _call_error(e) from None

    def listen(self, name: str, payload: bytes = b"") -> Iterator[bytes]:
        """Yields the replies of a stream; raises `CallError` when the server goes away."""
        try:
            method = self._channel.unary_stream(f"/{_SERVICE}/{name}")
            yield from method(payload, wait_for_ready=True, metadata=self._metadata)
        except grpc.RpcError as e:
            raise _call_error(e) from None

    def close(self) -> None:
        self._channel.close()


def _call_error(error: grpc.RpcError) -> CallError:
    code, details = error.code(), error.details()
    late = code == grpc.StatusCode.DEADLINE_EXCEEDED
    lost = late or code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return CallError(details or code.name, lost, late, denied=code == grpc.StatusCode.UNAUTHENTICATED)


def caller_waits() -> bool:
    """Inside a method: whether whoever called it still waits for the reply. A process that was killed does not."""
    context = _context.get(None)
    return context is None or context.is_active()


def _host_of(peer: str) -> str:
    """'10.0.0.2' of 'ipv4:10.0.0.2:40123'."""
    return peer.partition(":")[2].rpartition(":")[0] or peer


def _answer(
    method: Method, check: Callable[[grpc.ServicerContext], None]
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def answer(payload: bytes, context: grpc.ServicerContext) -> bytes:
        _context.set(context)
        check(context)
        try:
            return method(payload)
        except Exception as e:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(e))
            raise

    return answer


def _answer_stream(
    stream: Stream, check: Callable[[grpc.ServicerContext], None]
) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
    def answer(payload: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        check(context)
        replies = stream(payload)
        try:
            for reply in replies:
                if not context.is_active():
                    return
                yield reply
        finally:
            replies.close()  # type: ignore[attr-defined]

    return answer
