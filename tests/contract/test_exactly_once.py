"""Calls that are sent again, come late or do not fit: every push counts once, or is refused.

Promises of `ps/calls.py`, `ps/session.py`, `ps/chief.py`, `ps/sequencer.py` and `ps/errors.py`, under real servers.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.servers import LAYOUT, Servers, push, values

from jaxdist.ps import Fenced, wire
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.layout_header import layout_header


@pytest.mark.parametrize("count", [1, 2])
def test_a_push_whose_reply_is_lost_is_applied_once(tmp_path, count):
    lost = {3, 4}

    def drop(version: int) -> bool:
        if version in lost:
            lost.discard(version)
            return True
        return False

    with Servers(tmp_path, count, drop_reply=drop) as servers:
        (client,) = servers.begin()
        for step in range(1, 7):
            pulled = push(client, 1.0, step - 1)
            assert pulled.version == step and pulled.staleness == 0
            np.testing.assert_array_equal(values(pulled, client), -step)
        assert not lost and client.retries >= 2


def test_a_push_sent_again_by_hand_changes_nothing(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        claim = client.claim()
        for _ in range(5):
            assert push(client, 1.0, 0, claim=claim).version == 1


def test_the_beginning_may_be_sent_again_at_any_time(tmp_path):
    """Begin, Load and Pin whose replies were lost are repeated while the run goes on."""
    with Servers(tmp_path, 2) as servers:
        (client,) = servers.begin()
        settings = client.join()
        push(client, 1.0, 0)
        request = pb.BeginRequest(
            run=client.caller.run, header=layout_header(LAYOUT), signature='{"optim.name": "sgd"}'
        )
        request.settings = json.dumps(settings)
        for ready in (False, True):
            request.ready = ready
            for server in range(2):
                client._calls.call(server, "Begin", request)
        for server, shard in enumerate(client.flat_shards):
            data = np.full(shard.num_params, 7.0, np.float32).view(np.uint8)
            load = pb.LoadRequest(run=client.caller.run, what="params", total=len(data), checksum=wire.checksum(data))
            client._calls.call(server, "Load", load, data)
        pulled = push(client, 1.0, 1)
        assert pulled.version == 2
        np.testing.assert_array_equal(values(pulled, client), -2.0)
        pin = pb.PinRequest(caller=client.caller, name="twice")
        client._calls.call(0, "Pin", pin)
        push(client, 1.0, 2)
        reply, _ = client._calls.call(0, "Pin", pin)
        parts = [client.read(client.caller, "twice", reply.progress.version, "params", i) for i in range(2)]
        np.testing.assert_array_equal(np.concatenate(parts).view(np.float32), -3.0)


def test_a_gradient_of_the_future_is_refused_before_anything_changes(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin(total=2)
        claim = client.claim()
        with pytest.raises(Fenced, match="version 20 does not fit version 0"):
            push(client, 1.0, 20, claim=claim)
        assert push(client, 1.0, 0, claim=claim).version == 1


def test_at_bound_0_a_gradient_of_another_round_is_refused(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin(bound=0)
        assert push(client, 1.0, 0).version == 1
        with pytest.raises(Fenced, match="version 0 does not fit version 1"):
            push(client, 1.0, 0)
