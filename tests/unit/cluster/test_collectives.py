"""JAX's runtime between processes, where there is one process: connected, and nothing to end.

Runs of several are in `processes/`.
"""

from __future__ import annotations

import atexit
import socket
import types

import jax
import pytest

from jaxdist.cluster import collectives


def test_devices_are_connected_by_one_sum_over_all(monkeypatch):
    summed = []
    psum = jax.lax.psum
    monkeypatch.setattr(jax.lax, "psum", lambda x, axis: summed.append((x.shape, axis)) or psum(x, axis))
    collectives.connect_devices()
    assert summed == [((1,), "all")]


def test_where_no_runtime_was_started_nothing_is_ended(monkeypatch):
    monkeypatch.setattr(atexit, "register", lambda *_: pytest.fail("would end the process"))
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: pytest.fail("was not started"))
    collectives.exit_without_shutdown(1)
    collectives.stop_at_the_end(lambda: None)


def test_a_run_that_ends_well_takes_back_the_exit_of_one_that_failed(monkeypatch):
    registered = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    monkeypatch.setattr(atexit, "register", lambda *what: registered.append(what))
    monkeypatch.setattr(atexit, "unregister", lambda f: [registered.remove(r) for r in [*registered] if r[0] is f])
    for code in (1, 75):
        collectives.exit_without_shutdown(code)
        assert [code for _, code in registered] == [code]  # the last one's alone
    collectives.stop_at_the_end(lambda: None)
    assert registered == []


def test_the_service_ends_when_all_are_through_with_their_clients(monkeypatch):
    """A client whose service is gone aborts its process, in C++."""
    from jax._src import distributed

    done = []
    client, service = (
        types.SimpleNamespace(shutdown=lambda name=name: done.append(name)) for name in ("client", "service")
    )
    monkeypatch.setattr(distributed.global_state, "client", client)
    monkeypatch.setattr(distributed.global_state, "service", service)
    collectives.stop_at_the_end(lambda: done.append("all have left"))
    assert done == ["client", "all have left", "service"]
    assert not jax.distributed.is_initialized()


def test_connections_to_a_port_are_waited_for():
    option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        with socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            accepted.setsockopt(*option, 20_000)
            collectives._be_patient(server.getsockname()[1], 60.0)
            assert accepted.getsockopt(*option) == server.getsockopt(*option) == 60_000
            assert client.getsockopt(*option) == other.getsockopt(*option) == 0
            client.sendall(b"x")
            assert accepted.recv(1) == b"x", "it was not closed"
            accepted.close()
