"""Arrays kept by other processes for the chief: versions come and go, and strangers get nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.certificates import issued

from jaxdist.comm import array_server
from jaxdist.comm.array_server import ArrayExchange, ArrayServer
from jaxdist.comm.ports import Ports
from jaxdist.comm.security import OPEN
from jaxdist.errors import ConnectionLost

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def exchanges(security=OPEN):
    """(the chief's end, the other's)."""
    addresses: list[str] = []

    other = ArrayExchange(
        "127.0.0.1", "secret", ports=Ports(), is_chief=False, gather=lambda *_: addresses, security=security
    )
    addresses += ["", f"127.0.0.1:{other._server.port}"]
    return ArrayExchange(
        "127.0.0.1", "secret", ports=Ports(), is_chief=True, gather=lambda *_: addresses, security=security
    ), other


def test_the_chief_fetches_what_others_keep_and_older_versions_go(monkeypatch):
    monkeypatch.setattr(array_server, "_SECONDS", 0.3)  # of a version that never comes
    chief, other = exchanges()
    other.keep(1, {"kernel": ARRAY})
    other.keep(2, {"kernel": ARRAY + 1})

    def fetch(version):
        return np.asarray(chief.lazy(1, version, "kernel", ARRAY.shape, ARRAY.dtype))

    np.testing.assert_array_equal(fetch(1), ARRAY)
    np.testing.assert_array_equal(fetch(2), ARRAY + 1)
    with pytest.raises(ConnectionLost, match="kernel could not be fetched from process 1"):
        fetch(1)
    monkeypatch.undo()
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(other.close, None)
        with pytest.raises(TimeoutError):  # it waits for the chief
            closing.result(0.3)
        chief.close(None)
        closing.result(60)


def test_a_process_that_is_not_who_it_should_be_is_found_at_once():
    with pytest.raises(
        ConnectionLost, match=r"^process 1 at 127.0.0.1:\d+, whose arrays are needed, cannot be reached: "
    ):
        exchanges(issued("127.0.0.2"))


def test_encrypted():
    chief, other = exchanges(issued("127.0.0.1"))
    other.keep(1, {"kernel": ARRAY})
    np.testing.assert_array_equal(np.asarray(chief.lazy(1, 1, "kernel", ARRAY.shape, ARRAY.dtype)), ARRAY)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(other.close, None)
        chief.close(None)
        closing.result(60)


def test_the_token_is_asked_for():
    server = ArrayServer("secret")
    server.keep(1, {"kernel": ARRAY})
    request = {"token": "secret", "version": 1, "name": "kernel", "offset": 0}
    assert server.methods["fetch"](json.dumps(request).encode()) == ARRAY.tobytes()
    for name in server.methods:
        with pytest.raises(PermissionError):
            server.methods[name](json.dumps(request | {"token": "guess"}).encode())
