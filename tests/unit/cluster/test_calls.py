"""Calls to process 0: replies, and what refusals, silence and its end are worth."""

from __future__ import annotations

import json
import threading

import pytest

from jaxdist.cluster.calls import CoordinatorClient, refusal
from jaxdist.comm.rpc import CallError, Server
from jaxdist.errors import PeerError, Preempted


def refuse(payload: bytes) -> bytes:
    raise refusal("no memory", json.loads(payload)["code"])


def test_replies_and_refusals():
    over = threading.Event()
    methods = {"echo": lambda payload: payload, "none": lambda payload: b"", "refuse": refuse}
    server = Server("127.0.0.1:0", methods | {"wait": lambda payload: over.wait(60) and b""})
    client, other = (CoordinatorClient(f"127.0.0.1:{server.port}", process) for process in (3, 0))
    assert other.is_chief and not client.is_chief
    assert client.ask("echo", 60, value=[1]) == {"process": 3, "value": [1]}
    assert client.ask("none", 60) is None
    with pytest.raises(PeerError, match=r"^no memory$"):
        client.ask("refuse", 60, code=1)
    with pytest.raises(Preempted, match=r"^no memory$"):
        client.ask("refuse", 60, code=75)
    with pytest.raises(CallError) as e:
        client.rpc.call("refuse", client.payload(code=7), timeout=60)
    assert client.refused(e.value) == ("no memory", 7)
    words = f"process 0 was lost: no answer from 127.0.0.1:{server.port} to 'wait'"
    with pytest.raises(PeerError, match=words):
        client.ask("wait", 0.2)
    over.set()
    server.close()
    with pytest.raises(PeerError, match="process 0 was lost"):
        client.ask("echo", 60)
    client.close()
    other.close()
