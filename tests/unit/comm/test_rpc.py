"""Named calls over gRPC: replies, refusals, deadlines, streams that end, addresses in use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from helpers.certificates import issued

from jaxdist.comm.rpc import CallError, Client, Server
from jaxdist.comm.security import OPEN, Security


@contextlib.contextmanager
def served(methods, streams=None) -> Iterator[tuple[Server, Client]]:
    server = Server("127.0.0.1:0", methods, streams)
    client = Client(f"127.0.0.1:{server.port}")
    try:
        yield server, client
    finally:
        client.close()
        server.close()


def refuse(payload: bytes) -> bytes:
    raise ValueError(f"not {payload.decode()}")


def test_a_call_gets_the_reply_or_what_the_method_raised():
    with served({"reverse": lambda payload: payload[::-1], "refuse": refuse}) as (_, client):
        large = bytes(range(256)) * 2**15  # 8 MiB: above gRPC's own limit
        assert client.call("reverse", large, timeout=60) == large[::-1]
        with pytest.raises(CallError, match="not this") as e:
            client.call("refuse", b"this", timeout=60)
        assert not e.value.lost and not e.value.late
        with pytest.raises(CallError) as e:
            client.call("other", timeout=60)
        assert not e.value.lost


def test_a_late_reply_and_a_server_that_is_gone_are_told_apart():
    over = threading.Event()
    with served({"wait": lambda payload: over.wait(60) and b""}) as (server, client):
        with pytest.raises(CallError) as e:
            client.call("wait", timeout=0.2)
        assert e.value.late and e.value.lost
        over.set()
        server.close()
        with pytest.raises(CallError) as e:
            client.call("wait", timeout=60)
        assert e.value.lost and not e.value.late


def test_a_call_that_waits_finds_a_server_that_comes_later():
    first = Server("127.0.0.1:0", {})
    port = first.port
    first.close()
    client = Client(f"127.0.0.1:{port}")
    replies: list[bytes] = []
    calling = threading.Thread(target=lambda: replies.append(client.call("here", timeout=60, wait=True)))
    calling.start()
    server = Server(f"127.0.0.1:{port}", {"here": lambda payload: b"yes"})
    calling.join(60)
    assert replies == [b"yes"]
    client.close()
    server.close()


def test_the_server_notices_when_a_listener_goes_and_the_listener_when_the_server_does():
    closed = threading.Event()

    def count(payload: bytes) -> Iterator[bytes]:
        try:
            while True:
                yield payload
                closed.wait(0.01)
        finally:
            closed.set()

    with served({}, {"count": count}) as (_, client):
        replies = client.listen("count", b"x")
        assert [next(replies) for _ in range(3)] == [b"x"] * 3
        client.close()
        assert closed.wait(60)
    closed.clear()
    with served({}, {"count": count}) as (server, client):
        replies = client.listen("count", b"x")
        next(replies)
        server.close(0.0)
        with pytest.raises(CallError) as e:
            for _ in replies:
                pass
        assert e.value.lost


def test_an_address_in_use_is_an_error():
    with served({}) as (server, _):
        with pytest.raises(OSError, match="cannot be bound"):
            Server(f"127.0.0.1:{server.port}", {})


def test_who_has_no_token_gets_nothing_and_is_noted():
    denied: list[str] = []
    methods = {"here": lambda payload: b"yes"}
    streams = {"watch": lambda payload: (word for word in (b"yes",))}
    server = Server("127.0.0.1:0", methods, streams, security=Security("right"), denied=denied.append)
    for security, problem in ((Security("right"), ""), (OPEN, "token"), (Security("wrong"), "token")):
        with contextlib.closing(Client(f"127.0.0.1:{server.port}", security=security)) as client:
            if not problem:
                assert client.call("here", timeout=60) == b"yes" and list(client.listen("watch")) == [b"yes"]
                continue
            for call in (lambda: client.call("here", timeout=60), lambda: list(client.listen("watch"))):
                with pytest.raises(CallError, match=r"the token is missing or another one \(JAXDIST_TOKEN\)") as e:
                    call()
                assert e.value.denied and not e.value.lost
    server.close()
    assert denied == ["127.0.0.1"] * 4


def test_tls_encrypts_and_checks_the_server():
    server = Server("127.0.0.1:0", {"here": lambda payload: b"yes"}, security=issued("127.0.0.1"))
    for security in (issued(), issued(authority="a stranger"), Security("token")):
        with contextlib.closing(Client(f"127.0.0.1:{server.port}", security=security)) as client:
            if security == issued():
                assert client.call("here", timeout=60) == b"yes"
                continue
            with pytest.raises(CallError) as e:
                client.call("here", timeout=5)
            assert e.value.lost
    server.close()
