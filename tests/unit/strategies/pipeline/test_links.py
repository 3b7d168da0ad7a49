"""What connects neighbouring stages: in order, onto the receiver's device, and not waiting for one that failed."""

from __future__ import annotations

import socket

import jax
import numpy as np
import pytest

from jaxdist.comm.channel import Channel
from jaxdist.errors import ConnectionLost
from jaxdist.strategies.pipeline.links import LocalLink, RemoteLink

SECONDS = 60.0  # of what does come


@pytest.fixture(params=["local", "remote"])
def ends(request):
    """(the end of the stage before, on device 1; of the stage after, on device 2)."""
    before, after = jax.devices()[1:3]
    if request.param == "local":
        yield LocalLink.pair(before, after)
        return
    sockets = socket.socketpair()
    channels = [Channel(end, name, 2**20) for end, name in zip(sockets, ("after", "before"), strict=True)]
    yield RemoteLink(channels[0], before, SECONDS), RemoteLink(channels[1], after, SECONDS)
    for channel in channels:
        channel.close()


def test_both_ways_carry_arrays_in_order(ends):
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3) + k for k in range(3)]
    for k, array in enumerate(arrays):
        ends[0].send({"microbatch": k}, jax.device_put(array, jax.devices()[1]))
        ends[1].send({"microbatch": -k}, jax.device_put(-array, jax.devices()[2]))
    for own, device, sign in ((ends[0], 1, -1), (ends[1], 2, 1)):
        for k, array in enumerate(arrays):
            header, found = own.receive((2, 3), np.float32)
            assert header == {"microbatch": sign * k} and found.devices() == {jax.devices()[device]}
            np.testing.assert_array_equal(found, sign * array)
    remote = isinstance(ends[0], RemoteLink)  # it says how long it has waited, one within a process does not
    assert all(end.waited > 0 if remote else end.waited is None for end in ends)


def test_a_header_may_travel_alone(ends):
    ends[1].send({"metrics": {"count": 3.0}}, None)
    header, found = ends[0].receive((0,), np.uint8)
    assert header == {"metrics": {"count": 3.0}} and found.size == 0


def test_a_stage_that_fails_is_not_waited_for():
    before, after = LocalLink.pair(*jax.devices()[:2])
    before.send({}, None)
    before.fail(FloatingPointError("not a number"))
    after.receive((0,), np.uint8)
    with pytest.raises(ConnectionLost, match="another stage of this process failed: not a number"):
        after.receive((0,), np.uint8)


def test_silence_and_the_end_of_another_process_are_lost_connections():
    sockets = socket.socketpair()
    channels = [Channel(end, name, 2**20) for end, name in zip(sockets, ("after", "before"), strict=True)]
    link = RemoteLink(channels[0], jax.devices()[0], 0.1)
    with pytest.raises(ConnectionLost, match=r"nothing came from after for 0\.1 s"):
        link.receive((0,), np.uint8)
    channels[1].close()
    link = RemoteLink(channels[0], jax.devices()[0], SECONDS)
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="the connection to after ended"):
            link.receive((0,), np.uint8)
    channels[0].close()
