"""The service of `parameter_server.proto` over gRPC: bulk data beside the message, statuses as errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from jaxdist.comm.rpc import CONNECTING
from jaxdist.comm.security import DENIED, OPEN, Security
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire
from jaxdist.ps.errors import Ended, Fenced, Lost, NotNow, Refused, Superseded

SERVICE = pb.DESCRIPTOR.services_by_name["ParameterServer"]
_THREADS = 64
_NOT_NOW = "jaxdist-not-now"  # tells a server that is there from one that cannot be reached
_OPTIONS = [
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE),
    ("grpc.max_send_message_length", wire.MAX_MESSAGE),
]

Payload = tuple[Message, Any]  # the message, and its bulk data as a buffer
Handler = Callable[[Any, memoryview], Payload]


class Service:
    """Serves handlers at an address until closed; port 0 takes a free one.

    Args:
      security: what callers must send, and what encrypts the connections.

    Raises:
      OSError: the address cannot be bound.
    """

    def __init__(self, address: str, handlers: dict[str, Handler], security: Security = OPEN) -> None:
        pool = futures.ThreadPoolExecutor(_THREADS, "ps")
        # Clients ask whether it is alive while a call takes long.
        pings = ("grpc.http2.min_ping_interval_without_data_ms", 1000), ("grpc.http2.max_ping_strikes", 0)
        options = [*_OPTIONS, ("grpc.so_reuseport", 0), *pings]
        self._server = grpc.server(pool, options=options, maximum_concurrent_rpcs=4 * _THREADS)
        methods = {m.name: _method(handlers[m.name], m.input_type, security) for m in SERVICE.methods}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, methods),))
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.port = security.open_port(self._server, address)
        self._server.start()
        self.health.set("", health_pb2.HealthCheckResponse.SERVING)

    def close(self, grace: float = 0.5) -> None:
        """Takes no more calls; blocks until those under way are answered, for `grace` seconds at most."""
        self.health.enter_graceful_shutdown()
        self._server.stop(grace).wait()


def _method(handler: Handler, input_type: Any, security: Security) -> grpc.RpcMethodHandler:
    kind = message_factory.GetMessageClass(input_type)

    def answer(payload: bytes, context: grpc.ServicerContext) -> bytes:
        if not security.admits(context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, DENIED)
        try:
            request, data = wire.decode(kind, payload)
            reply, bulk = handler(request, data)
            return wire.encode(reply, bulk)
        except ValueError as e:
            code, text = grpc.StatusCode.INVALID_ARGUMENT, str(e)
        except Fenced as e:
            code, text = grpc.StatusCode.FAILED_PRECONDITION, str(e)
        except NotNow as e:
            context.set_trailing_metadata(((_NOT_NOW, "1"),))
            code, text = grpc.StatusCode.UNAVAILABLE, str(e)
        except Superseded as e:
            code, text = grpc.StatusCode.NOT_FOUND, str(e)
        except Ended as e:
            code, text = grpc.StatusCode.ABORTED, json.dumps({"code": e.code, "text": e.text})
        except Exception as e:
            logging.exception("A call failed")
            code, text = grpc.StatusCode.INTERNAL, f"{type(e).__name__}: {e}"
        context.abort(code, text)
        raise AssertionError  # abort does not return

    return grpc.unary_unary_rpc_method_handler(answer)


class Stub:
    """Calls a server's methods; thread-safe. Connects when first used.

    Args:
      security: what the server asks for.
      silent_seconds: after which a connection that brings nothing is given up, however long a call may take.
    """

    def __init__(self, address: str, security: Security = OPEN, silent_seconds: float = 20.0) -> None:
        self.address = address
        limit = int(1000 * silent_seconds)  # of what TCP does not deliver, and of a process that stands still
        alive = (
            ("grpc.keepalive_time_ms", 2000),
            ("grpc.keepalive_timeout_ms", limit),
            ("grpc.http2.ping_timeout_ms", limit),
        )
        own = ("grpc.use_local_subchannel_pool", 1)  # a connection of its own: bulk data holds up nobody else's calls
        options = [*_OPTIONS, *CONNECTING, *alive, ("grpc.http2.max_pings_without_data", 0), own]
        self._channel = security.open_channel(address, options)
        self._metadata = security.metadata
        self._calls = {m.name: self._channel.unary_unary(f"/{SERVICE.full_name}/{m.name}") for m in SERVICE.methods}
        self._replies = {m.name: message_factory.GetMessageClass(m.output_type) for m in SERVICE.methods}
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(self, name: str, message: Message, data: Any = b"", *, timeout: float) -> grpc.Future:
        """Starts a call and returns at once; `receive` takes its result."""
        payload = wire.encode(message, data)
        self.bytes_sent += len(payload)
        return self._calls[name].future(payload, timeout=timeout, metadata=self._metadata)

    def receive(self, name: str, future: grpc.Future) -> tuple[Any, memoryview]:
        """Blocks for the reply of a call: (message, data).

        Raises:
          Lost, Refused, Fenced, Superseded, Ended: see the statuses in `parameter_server.proto`.
        """
        return self._read(name, future.result)

    def call(self, name: str, message: Message, data: Any = b"", *, timeout: float) -> tuple[Any, memoryview]:
        """`send` and `receive` in one: blocks, and raises the same. gRPC is quicker at calls that block."""
        payload = wire.encode(message, data)
        self.bytes_sent += len(payload)
        return self._read(name, lambda: self._calls[name](payload, timeout=timeout, metadata=self._metadata))

    def _read(self, name: str, wait: Callable[[], bytes]) -> tuple[Any, memoryview]:
        try:
            payload = wait()
        except grpc.RpcError as e:
            raise _error(e, self.address) from None
        self.bytes_received += len(payload)
        return wire.decode(self._replies[name], payload)

    def close(self) -> None:
        """Closes the connection: calls under way fail. Idempotent."""
        self._channel.close()


def _error(error: Any, address: str) -> Exception:
    code, text = error.code(), error.details() or error.code().name
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            return Refused(text)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return Fenced(text)
        case grpc.StatusCode.NOT_FOUND:
            return Superseded(text)
        case grpc.StatusCode.ABORTED:
            return Ended(**json.loads(text))
        case (
            grpc.StatusCode.UNAVAILABLE
            | grpc.StatusCode.DEADLINE_EXCEEDED
            | grpc.StatusCode.CANCELLED
            | grpc.StatusCode.RESOURCE_EXHAUSTED
        ):
            answered = any(name == _NOT_NOW for name, _ in error.trailing_metadata() or ())
            return Lost(f"{address}: {text}", late=code == grpc.StatusCode.DEADLINE_EXCEEDED, answered=answered)
        case _:
            return Refused(f"{address}: {code.name}: {text}")
