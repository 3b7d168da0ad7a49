"""Channels: what is sent arrives whole and in order, and what is no frame of ours ends the connection."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.certificates import issued
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxdist.comm.channel import Channel, ChannelError, ChannelListener

MAX = 2**20
SECONDS = 60.0  # of what does come


@pytest.fixture
def pair():
    """Two ends, through two listeners."""
    listeners = ChannelListener("secret", MAX, "127.0.0.1"), ChannelListener("secret", MAX, "127.0.0.1")
    opened = listeners[1].open(f"127.0.0.1:{listeners[0].port}", "a", "a-b", SECONDS)
    accepted = listeners[0].accept({"a-b": "b"}, SECONDS)["a-b"]
    yield opened, accepted
    for end in (opened, accepted, *listeners):
        end.close()


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
arrays = hnp.arrays(st.sampled_from([np.float32, np.float64, np.uint8, np.int32]), shapes)


@given(sent=st.lists(st.tuples(st.dictionaries(st.text(), st.integers() | st.text()), arrays), max_size=5))
def test_what_is_sent_arrives(sent):
    a, b = socket.socketpair()
    one, other = Channel(a, "b", MAX), Channel(b, "a", MAX)
    try:
        for header, array in sent:
            one.send(header, lambda array=array: array)
        for header, array in sent:
            frame = other.receive(SECONDS)
            assert frame.header == header
            np.testing.assert_array_equal(frame.array(array.shape, array.dtype), array)
    finally:
        one.close()
        other.close()


def test_both_ways_at_once(pair):
    large = np.arange(MAX // 8, dtype=np.float64)
    for end in pair:
        for k in range(40):
            end.send({"k": k}, lambda k=k: large + k)
    for end in pair:
        for k in range(40):
            frame = end.receive(SECONDS)
            assert frame.header == {"k": k}
            np.testing.assert_array_equal(frame.array(large.shape, large.dtype), large + k)


def test_received_arrays_are_aligned(pair):
    pair[0].send({}, lambda: np.ones(5))
    assert pair[1].receive(SECONDS).array((5,), np.float64).ctypes.data % 64 == 0


def test_silence_and_the_end_are_reported(pair):
    with pytest.raises(ChannelError, match=r"nothing came from b for 0.1 s"):
        pair[1].receive(0.1)
    pair[0].send({}, lambda: np.ones(1))
    pair[0].close()
    pair[1].receive(SECONDS)
    for _ in range(2):
        with pytest.raises(ChannelError, match="the connection to b ended"):
            pair[1].receive(SECONDS)


def test_what_cannot_be_computed_is_reported(pair):
    def fails():
        raise RuntimeError("no such value")

    pair[0].send({}, fails)
    with pytest.raises(ChannelError, match="sending to a failed: no such value"):
        pair[0].receive(SECONDS)


def test_a_header_may_hold_the_metrics_of_many_classes(pair):
    metrics = {"confusion_matrix": list(range(10**5))}
    pair[0].send(metrics, lambda: np.ones(1))
    assert pair[1].receive(SECONDS).header == metrics


def test_another_size_is_refused(pair):
    pair[0].send({}, lambda: np.ones(3))
    with pytest.raises(ChannelError, match="24 bytes came where 32 were expected"):
        pair[1].receive(SECONDS).array((4,), np.float64)


LARGE = struct.pack("<4sIQ", b"jxd1", 2, 2**40) + b"{}"
NO_JSON = struct.pack("<4sIQ", b"jxd1", 9, 0) + b"not json!"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", LARGE, NO_JSON])
def test_no_frame_of_ours(data):
    a, b = socket.socketpair()
    channel = Channel(b, "a", MAX)
    a.sendall(data)
    with pytest.raises(ChannelError, match=r"is no frame of this program|ended"):
        channel.receive(SECONDS)
    channel.close()
    a.close()


def test_strangers_are_turned_away():
    listener, other, strange = (ChannelListener(token, MAX, "127.0.0.1") for token in ("secret", "secret", "guess"))
    here = f"127.0.0.1:{listener.port}"
    nested = b"[" * 1000
    with (
        socket.create_connection(("127.0.0.1", listener.port)) as raw,
        socket.create_connection(("127.0.0.1", listener.port)) as deep,
    ):
        raw.sendall(b"\0" * 64)
        deep.sendall(struct.pack("<4sIQ", b"jxd1", len(nested), 0) + nested)
        stranger = strange.open(here, "a", "a-b", SECONDS)
        friend: list[Channel] = []
        opening = threading.Thread(target=lambda: friend.append(other.open(here, "a", "a-b", SECONDS)))
        opening.start()
        accepted = listener.accept({"a-b": "b"}, SECONDS)["a-b"]
        opening.join()
    friend[0].send({"who": "friend"}, lambda: np.zeros(0))
    assert accepted.receive(SECONDS).header == {"who": "friend"}
    for end in (stranger, friend[0], accepted, listener, other, strange):
        end.close()


def test_encrypted_to_those_alone_who_have_a_certificate():
    listener, other = (ChannelListener("secret", MAX, "127.0.0.1", security=issued("127.0.0.1")) for _ in range(2))
    here = f"127.0.0.1:{listener.port}"
    plain = ChannelListener("secret", MAX, "127.0.0.1")
    with contextlib.closing(plain.open(here, "a", "a-b", SECONDS)) as stranger:
        friend: list[Channel] = []
        opening = threading.Thread(target=lambda: friend.append(other.open(here, "a", "a-b", SECONDS)))
        opening.start()
        accepted = listener.accept({"a-b": "b"}, SECONDS)["a-b"]
        opening.join()
        with pytest.raises(ChannelError):
            stranger.receive(SECONDS)
    body = np.random.default_rng(0).normal(size=100_000)
    for sender, receiver in ((friend[0], accepted), (accepted, friend[0])):
        sender.send({"who": "friend"}, lambda: body)
        np.testing.assert_array_equal(receiver.receive(SECONDS).array(body.shape, body.dtype), body)
    with pytest.raises(ChannelError, match=r"process 0 at .* cannot be spoken to by TLS"):
        _speak_to_another_authority(other)
    for end in (friend[0], accepted, listener, other, plain):
        end.close()


def _speak_to_another_authority(caller: ChannelListener) -> None:
    theirs = issued("127.0.0.1", authority="a stranger")
    with contextlib.closing(ChannelListener("secret", MAX, "127.0.0.1", security=theirs)) as stranger:

        def accept() -> None:
            with pytest.raises(ChannelError):
                stranger.accept({"x": "b"}, 2.0)

        with ThreadPoolExecutor(1) as pool:
            accepting = pool.submit(accept)
            try:
                caller.open(f"127.0.0.1:{stranger.port}", "process 0", "x", SECONDS)
            finally:
                accepting.result()


def test_who_does_not_come_is_named():
    listener = ChannelListener("secret", MAX, "127.0.0.1")
    with pytest.raises(ChannelError, match=r"no connection came from process 3 for 0.2 s"):
        listener.accept({"x": "process 3"}, 0.2)
    port = listener.port
    listener.close()
    with contextlib.closing(ChannelListener("secret", MAX, "127.0.0.1")) as other:
        with pytest.raises(ChannelError, match="process 0 could not be reached"):
            other.open(f"127.0.0.1:{port}", "process 0", "x", 0.3)
