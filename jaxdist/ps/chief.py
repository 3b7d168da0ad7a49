"""What the chief alone does to all servers: begins a run with its values, ends it or one of its phases."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdist.errors import UsageError
from jaxdist.parallel.flat_layout import FlatShard
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire
from jaxdist.ps.calls import Calls
from jaxdist.ps.errors import Fenced, Refused
from jaxdist.ps.reservation import end_server
from jaxdist.ps.session import Session


class Chief:
    """The chief's part of a client.

    Args:
      flat_shards: which part of the vectors each server has.
      reserve: what the run has reserved the servers by.
    """

    def __init__(self, calls: Calls, session: Session, flat_shards: Sequence[FlatShard], reserve: str) -> None:
        self._calls, self._session = calls, session
        self._flat_shards, self._reserve = flat_shards, reserve

    def begin(
        self, header: bytes, signature: str, settings: Mapping[str, Any], vectors: Mapping[str, np.ndarray]
    ) -> None:
        """See `Client.begin`; `header` is the layout's, `signature` JSON."""
        self._session.caller = pb.Caller(run=(run := uuid.uuid4().hex))
        request = pb.BeginRequest(
            run=run, header=header, signature=signature, settings=json.dumps(settings), reserve=self._reserve
        )
        servers = range(len(self._flat_shards))
        try:
            for i in servers:
                self._calls.call(i, "Begin", request)
                for what, vector in vectors.items():
                    self._load(i, run, what, vector)
            request.ready = True
            for i in reversed(servers):  # server 0, which lets the workers in, last
                self._calls.call(i, "Begin", request)
        except Refused as e:
            raise UsageError(f"The parameter servers refuse the run: {e}.") from None

    def _load(self, server: int, run: str, what: str, vector: np.ndarray) -> None:
        flat_shard = self._flat_shards[server]
        if vector.ndim:
            vector = vector[flat_shard.stats if what == "stats" else flat_shard.params]
        data = np.ascontiguousarray(vector).reshape(-1).view(np.uint8)
        for offset, part in wire.chunks(data):
            digest = wire.checksum(part)
            request = pb.LoadRequest(run=run, what=what, offset=offset, total=len(data), checksum=digest)
            self._calls.call(server, "Load", request, part)

    def end(self, code: int, text: str) -> None:
        """See `Client.end`."""
        for stub in reversed(self._calls.stubs):
            end_server(stub, self._session.caller.run, code, text, self._reserve)

    def end_phase(self) -> None:
        """See `Client.end_phase`."""
        self._session.stop_heartbeats()
        request = pb.EndRequest(run=self._session.caller.run, phase_over=True, reserve=self._reserve)
        for server in range(len(self._flat_shards)):
            with contextlib.suppress(Fenced):  # sent again
                self._calls.call(server, "End", request)
