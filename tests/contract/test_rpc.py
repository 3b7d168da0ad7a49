"""The service over gRPC (`ps/rpc.py`): who may call, what encrypts, its health, and bytes that are no calls."""

from __future__ import annotations

import random
import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from helpers.certificates import issued
from helpers.processes import long
from helpers.servers import LAYOUT, Servers, buffers, push

from jaxdist.comm import waiting
from jaxdist.comm.security import Security
from jaxdist.errors import UsageError
from jaxdist.ps import Refused, wire
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Lost
from jaxdist.ps.layout_header import layout_header
from jaxdist.ps.reservation import check_server
from jaxdist.ps.rpc import SERVICE, Stub
from jaxdist.ps.transfers import push_chunks


def test_the_token_is_asked_for(tmp_path):
    with Servers(tmp_path, security=Security("right")) as servers:
        for token in ("", "wrong"):
            with pytest.raises(Refused, match="UNAUTHENTICATED"):
                Stub(servers.addresses[0], Security(token)).call("Status", pb.StatusRequest(), timeout=5)
        assert Stub(servers.addresses[0], Security("right")).call("Status", pb.StatusRequest(), timeout=5)[0].index == 0


def test_tls_encrypts_and_checks_the_servers(tmp_path):
    security = issued("127.0.0.1")
    with Servers(tmp_path, 2, security=security) as servers:
        servers.client_security = security
        (client,) = servers.begin()
        assert push(client).version == 1
        for wrong in (Security("token"), issued(authority="a stranger")):
            with pytest.raises(Lost):
                Stub(servers.addresses[0], wrong).call("Status", pb.StatusRequest(), timeout=3)


def test_a_server_with_a_certificate_for_another_host_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.0)
    with Servers(tmp_path, security=issued("127.0.0.2")) as servers:
        (address,) = servers.addresses
        with pytest.raises(
            UsageError, match=r"its certificate is not for this name or address, or not of the authority"
        ):
            check_server(0, [address], Stub(address, issued()), {}, time.monotonic() + 600)


def test_health_is_served(tmp_path):
    with Servers(tmp_path) as servers, grpc.insecure_channel(servers.addresses[0]) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("count", [2_000, long(10_000)])
def test_bad_frames_leave_the_server_serving(tmp_path, count):
    rng = random.Random(0)
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        with grpc.insecure_channel(servers.addresses[0]) as channel:
            calls = {m.name: channel.unary_unary(f"/{SERVICE.full_name}/{m.name}") for m in SERVICE.methods}
            # One flipped bit can make a push into a well-formed Claim, Leave, Close or End of the same run.
            names = [n for n in calls if n not in ("Claim", "Leave", "Close", "End")]
            chunks = push_chunks(client.caller, layout_header(LAYOUT), 12345, buffers(client, 1.0)[0])
            good = [wire.encode(r, p) for r, p in chunks]
            good.append(pb.JoinRequest(worker=5, signature="{}", header=layout_header(LAYOUT)).SerializeToString())
            good.append(pb.PullRequest(caller=client.caller).SerializeToString())
            waiting = []
            for i in range(count):
                frame = bytearray(rng.choice(good))
                match i % 3:
                    case 0:
                        frame = bytearray(rng.randbytes(rng.randrange(200)))
                    case 1:
                        frame = frame[: rng.randrange(len(frame))]
                    case 2:
                        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
                name = rng.choice(list(calls) if i % 3 == 0 else names)
                waiting.append(calls[name].future(bytes(frame), timeout=30))
                if len(waiting) == 50:
                    for future in waiting:
                        future.exception()
                    waiting.clear()
        before = client.pull(start=False)
        assert push(client, version=before.version).version == before.version + 1


def test_raw_bytes_on_the_port_do_no_harm(tmp_path):
    rng = random.Random(1)
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", servers.servers[0].port), timeout=5) as s:
                s.sendall(rng.randbytes(rng.randrange(1, 2000)))
        assert push(client).version == 1
