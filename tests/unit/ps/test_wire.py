"""Messages with bulk data: the same bytes as the protocol buffer library's, and nothing else is read as a message."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire


@given(st.binary(max_size=300), st.integers(0, 2**63), st.text(max_size=20))
def test_bulk_data_beside_a_message_is_the_ordinary_message(data, number, text):
    message = pb.PushRequest(claim=number, caller=pb.Caller(run=text))
    whole = pb.PushRequest.FromString(wire.encode(message, data))
    assert whole.data == data and whole.claim == number and whole.caller.run == text
    read, view = wire.decode(pb.PushRequest, whole.SerializeToString())
    assert bytes(view) == data and read == message


@given(st.binary(max_size=200))
def test_decoding_random_bytes_is_an_error_or_a_message(payload):
    for kind in (pb.PushRequest, pb.PullRequest, pb.JoinRequest, pb.ApplyRequest):
        try:
            wire.decode(kind, payload)
        except ValueError:
            continue


def test_chunks_arrive_in_any_order_and_twice():
    data = np.frombuffer(np.random.default_rng(0).bytes(2 * wire.CHUNK + 5), np.uint8)
    parts = list(wire.chunks(data))
    assert [(offset, len(part)) for offset, part in parts] == [
        (0, wire.CHUNK),
        (wire.CHUNK, wire.CHUNK),
        (2 * wire.CHUNK, 5),
    ]
    arriving = wire.Arriving(len(data))
    for offset, part in [parts[2], parts[0], parts[2]]:
        assert arriving.fits(offset, len(data), part.data)
        arriving.add(offset, part.data)
        assert not arriving.whole
    arriving.add(wire.CHUNK, parts[1][1].data)
    assert arriving.whole and bytes(arriving.buffer) == data.tobytes()
    assert not arriving.fits(1, len(data), parts[0][1].data) and not arriving.fits(0, len(data), parts[2][1].data)


def test_nothing_is_one_empty_chunk():
    ((offset, part),) = wire.chunks(np.zeros((0,), np.uint8))
    assert offset == 0 and len(part) == 0 and wire.Arriving.fits(0, 0, part.data)


def test_a_checksum_belongs_to_its_claim():
    assert wire.checksum(b"gradient", 1) not in (wire.checksum(b"gradient", 2), wire.checksum(b"gradienu", 1))


def test_bytes_after_the_data_are_refused():
    with pytest.raises(ValueError, match="data is not the last field"):
        wire.decode(pb.PushRequest, wire.encode(pb.PushRequest(claim=1), b"data") + b"more")
