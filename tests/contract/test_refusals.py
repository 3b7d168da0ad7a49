"""What does not fit is refused with both sides' words, and the run goes on.

Promises of `ps/server.py`, `ps/layout_header.py`, `ps/signature.py`, `ps/wire.py` and `ps/reservation.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
from free_ports import free_port
from helpers.servers import LAYOUT, PARAMS, SIGNATURE, STATS, Servers, buffers, push, struct

from jaxdist.errors import UsageError
from jaxdist.parallel.flat_layout import Layout
from jaxdist.ps import Client, Refused, wire
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.layout_header import layout_header
from jaxdist.ps.rpc import Stub
from jaxdist.ps.transfers import push_chunks


def test_a_wrong_push_names_the_tensor_and_both_shapes(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        for change, words in (
            ({"a/kernel": struct(7, 6)}, r"'a/kernel' float32\[7, 5\].*'a/kernel' float32\[7, 6\]"),
            ({"c/kernel": struct(1)}, "no 'c/kernel'"),
            ({k: struct(*v.shape, dtype=np.float64) for k, v in PARAMS.items()}, "float32.*float64"),
        ):
            stats = {"a/mean": struct(5, dtype=np.float64 if "a/bias" in change else np.float32)}
            other = Layout.of(PARAMS | change, stats)
            request = pb.PushRequest(caller=client.caller, header=layout_header(other), claim=1)
            with pytest.raises(Refused, match=words):
                Stub(servers.addresses[0]).call("Push", request, b"1234", timeout=5)
        with pytest.raises(UsageError, match="a/kernel"):
            servers.client(0, Layout.of(PARAMS | {"a/kernel": struct(7, 6)}, STATS)).join()
        assert push(client).version == 1


def test_damaged_values_are_refused(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        claim = client.claim()
        ((request, part),) = push_chunks(client.caller, layout_header(LAYOUT), claim.number, buffers(client, 1.0)[0])
        damaged = bytearray(part)
        damaged[17] ^= 4
        with pytest.raises(Refused, match="checksum"):
            Stub(servers.addresses[0]).call("Push", request, damaged, timeout=5)
        short = wire.checksum(part[:-4], claim.number)
        request.checksum = short
        with pytest.raises(Refused, match="do not fit"):
            Stub(servers.addresses[0]).call("Push", request, part[:-4], timeout=5)
        assert push(client, claim=claim).version == 1


def test_server_lists_that_differ_are_refused(tmp_path):
    with Servers(tmp_path, 2) as servers:
        servers.begin()
        with pytest.raises(UsageError, match="give all processes the same list"):
            servers.client(0, addresses=servers.addresses[::-1]).check_servers()
        with pytest.raises(UsageError, match=r"cannot take part.*in this order"):
            servers.client(0, addresses=servers.addresses[:1]).join()
        with pytest.raises(UsageError, match=r"do not agree on optim.name \('sgd' here, 'adam' there\)"):
            servers.client(0, signature={"optim.name": "adam"}).join()


def test_a_server_that_is_not_there_is_named():
    address = f"127.0.0.1:{free_port()}"
    client = Client([address], 0, LAYOUT, signature=SIGNATURE, connect_seconds=1.5)
    with pytest.raises(UsageError, match=f"server 0 could not be reached.*{address}"):
        client.check_servers()
    client.close()


def test_an_address_in_use_is_refused(tmp_path):
    with Servers(tmp_path) as servers, pytest.raises(OSError, match="in use"):
        servers.start(0)
