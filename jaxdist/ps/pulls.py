"""Waiting for a pull, and answering it: the newest values that a caller may have, or a chunk of a known version."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps import wire
from jaxdist.ps.errors import NotNow, Superseded
from jaxdist.ps.rpc import Payload
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.shard import Shard
from jaxdist.ps.timing import LONG_POLL_SECONDS
from jaxdist.ps.values import Values, both
from jaxdist.runtime import profiler


class Pulls:
    """Answers the pulls of one server."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def answer(self, caller: pb.Caller, pulling: pb.Pulling) -> Payload:
        """The reply to a pull and its bulk data. Blocks for LONG_POLL_SECONDS at most.

        Raises:
          Ended, Fenced: the caller's run, session or incarnation is over.
          NotNow: no run is served, or what it wants is not pinned yet.
          Superseded: the version whose chunk it wants is gone.
        """
        deadline = time.monotonic() + LONG_POLL_SECONDS
        if pulling.pin or pulling.offset:
            return self._pull_part(caller, pulling, deadline)
        return self._wait_and_reply(caller, pulling, deadline)

    def answer_push(self, caller: pb.Caller, pulling: pb.Pulling) -> Payload:
        """The reply to a push that pulls, in the same way: always the newest values."""
        return self._wait_and_reply(caller, pulling, time.monotonic() + LONG_POLL_SECONDS)

    def _wait_and_reply(self, caller: pb.Caller, pulling: pb.Pulling, deadline: float) -> Payload:
        """Parameters and statistics, once version and staleness controller allow it; else `granted` is False."""
        state, start = self._state, _Start()
        with state.changed:
            while True:
                state.check_caller(caller)
                shard = state.loaded_shard()
                reply = pb.PullReply(version=shard.values.version)
                if self._may_have(caller, pulling, shard, reply, start):
                    values = shard.values
                    break
                left = deadline - time.monotonic()
                if left <= 0:
                    return reply, b""
                state.changed.wait(left)
        with profiler.span(profiler.SERVER_PULL):
            chunk, digest, total = shard.reply_of(values)
        reply.granted, reply.version = True, values.version
        reply.total, reply.checksum = total, digest
        return reply, chunk

    def _may_have(
        self, caller: pb.Caller, pulling: pb.Pulling, shard: Shard, reply: pb.PullReply, start: _Start
    ) -> bool:
        """Whether a pull may be answered; fills in the reply but for the values. Called with the lock."""
        needed = pulling.min_version
        if self._state.index != 0:
            return shard.values.version >= needed and (not pulling.pushed or shard.is_applied(pulling.pushed))
        sequencer, _ = self._state.ready()
        reply.progress.CopyFrom(sequencer.progress())
        member = sequencer.member(caller.session) if caller.session else None
        if pulling.pushed:
            outcome = sequencer.outcome(pulling.pushed)
            if outcome is None:
                return False
            reply.push.CopyFrom(outcome)
            needed = max(needed, outcome.version)
        if pulling.start and member is not None and start.version is None:
            lead = sequencer.may_start(member, pulling)
            if lead is None:
                return False
            # What is accepted by now counts as completed: without it in the values, staleness would pass its bound.
            start.version, start.lead = sequencer.version, lead
        reply.clock_lead = start.lead
        return shard.values.version >= max(needed, start.version or 0)

    def _pull_part(self, caller: pb.Caller, pulling: pb.Pulling, deadline: float) -> Payload:
        """A chunk: of a pinned version, or of a version whose beginning was pulled just before."""
        state = self._state
        with state.changed:
            while True:
                state.check_caller(caller)
                shard = state.loaded_shard()
                pinned = shard.pinned(pulling.pin) if pulling.pin else None
                if pinned is not None and pinned.version != pulling.version:
                    pinned = None  # the request to pin was sent again, and is on its way with a later version
                if pinned is not None or not pulling.pin:
                    break
                if time.monotonic() > deadline:
                    raise NotNow(f"{pulling.pin!r} is not pinned (yet)")
                state.changed.wait(0.1)
        if pinned is not None:
            version, whole = pinned.version, shard_bytes(pinned, pulling.what)
        else:
            try:
                version, whole = pulling.version, shard.recent(pulling.version)
            except LookupError as e:
                raise Superseded(str(e)) from e
        part = whole[pulling.offset : pulling.offset + wire.CHUNK]
        return pb.PullReply(granted=True, version=version, total=len(whole), checksum=wire.checksum(part)), part


@dataclasses.dataclass
class _Start:
    """A step that the staleness controller has let start while its pull waits for the values: taken once."""

    version: int | None = None
    lead: int = 0


def shard_bytes(values: Values, what: str) -> Any:
    """What is asked of a pinned version, as a buffer: 'params', 'stats', 'slot/NAME'; '': params and stats together."""
    if what:
        return values.flat(what).view(np.uint8)
    return both(values)
