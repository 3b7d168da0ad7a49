"""Buffers in chunks: cut for a push, put together for a pull, and damage on the way is noticed."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from jaxdist.errors import PeerError
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire
from jaxdist.ps.transfers import pull_rest, push_chunks

BUFFER = np.arange(wire.CHUNK // 4 + 3, dtype=np.float32)  # two chunks
BYTES = memoryview(BUFFER.tobytes())


def test_the_header_is_in_the_first_chunk_alone():
    chunks = push_chunks(pb.Caller(run="r"), b"header", 7, BUFFER)
    assert [(r.offset, r.total, r.header, r.claim) for r, _ in chunks] == [
        (0, BUFFER.nbytes, b"header", 7),
        (wire.CHUNK, BUFFER.nbytes, b"", 7),
    ]
    assert all(request.checksum == wire.checksum(part, 7) for request, part in chunks)
    assert b"".join(part.tobytes() for _, part in chunks) == BYTES


def pulled(first: memoryview, rest: memoryview):
    """With the checksums of the true bytes."""
    reply = pb.PullReply(total=len(BYTES), version=3, checksum=wire.checksum(BYTES[: wire.CHUNK]))
    more = pb.PullReply(checksum=wire.checksum(BYTES[wire.CHUNK :]))
    calls = mock.Mock(addresses=["a:1", "b:2"])
    calls.call_all.return_value = [(more, rest)]
    whole = pull_rest(calls, pb.Caller(), 1, reply, first)
    (((server, name, request, _),),), _ = calls.call_all.call_args
    assert (server, name, request.pulling.offset, request.pulling.version) == (1, "Pull", wire.CHUNK, 3)
    return whole


def test_a_pull_is_put_together_and_damage_is_noticed():
    first, rest = BYTES[: wire.CHUNK], BYTES[wire.CHUNK :]
    assert pulled(first, rest) == BYTES
    for damaged in ((first[:-1], rest), (first, bytes(len(rest)))):
        with pytest.raises(PeerError, match=r"values from b:2 were damaged on their way \(checksum\)"):
            pulled(*map(memoryview, damaged))
