"""A buffer between a client and one server, in chunks that each fit into a message."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdist.errors import PeerError
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire
from jaxdist.ps.calls import Calls


def push_chunks(
    caller: pb.Caller, header: bytes, claim: int, buffer: np.ndarray
) -> list[tuple[pb.PushRequest, np.ndarray]]:
    """The messages, and their bulk data, that push one server's buffer; `header`, of the layout, is in the first."""
    data = buffer.view(np.uint8)
    chunks = []
    for offset, part in wire.chunks(data):
        request = pb.PushRequest(
            caller=caller, claim=claim, offset=offset, total=len(data), checksum=wire.checksum(part, claim)
        )
        if offset == 0:
            request.header = header
        chunks.append((request, part))
    return chunks


def pull_rest(
    calls: Calls, caller: pb.Caller, server: int, reply: pb.PullReply, data: memoryview, **pulling: Any
) -> bytearray | memoryview:
    """All of a buffer whose first chunk is `data`; `pulling` as in the call that it came by. Blocks for the others.

    Raises:
      PeerError: values were damaged on their way.
      Superseded: the version is gone; pull again.
      As `Calls.call` does.
    """
    if wire.checksum(data) != reply.checksum:
        raise PeerError(f"values from {calls.addresses[server]} were damaged on their way (checksum)")
    if len(data) == reply.total:
        return data
    whole = bytearray(reply.total)
    whole[: len(data)] = data
    asked = []
    for offset in range(len(data), reply.total, wire.CHUNK):
        rest = pb.Pulling(offset=offset, **({"version": reply.version} | pulling))
        asked.append((server, "Pull", pb.PullRequest(caller=caller, pulling=rest), b""))
    at = len(data)
    for part, more in calls.call_all(asked):
        if wire.checksum(more) != part.checksum:
            raise PeerError(f"values from {calls.addresses[server]} were damaged on their way (checksum)")
        whole[at : at + len(more)] = more
        at += len(more)
    return whole
