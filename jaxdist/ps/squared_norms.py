"""The norm of a gradient over all servers, each of which has a part of it: what clipping by it needs.

    server 1   sum of squares of its part of the mean --SumSquares--> server 0   waits until all have come
    server 0   its own                                               |
               <------------------------- the sum -------------------+           the same on all

Asked for by whoever applies an update, one update at a time. Where the servers go back to a snapshot meanwhile, the
update is given up: it will be made again.
"""

from __future__ import annotations

import math
import time

from jaxdist.comm.security import Security
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced, Lost, NotNow
from jaxdist.ps.rpc import Stub
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.timing import HEARTBEAT_SECONDS, LONG_POLL_SECONDS

_REMEMBERED = 4  # versions whose parts are kept: a server may ask again, because the answer was lost


class SquaredNorms:
    """One server's side of it."""

    def __init__(self, state: ServerState, security: Security) -> None:
        self._state = state
        self._parts: dict[tuple[str, int, int], dict[int, float]] = {}  # server 0: (run, incarnation, version) -> parts
        self._first = Stub(state.addresses[0], security) if state.index else None

    def total(self, version: int, own: float) -> float | None:
        """The sum over the servers of what each says of its part. Blocks for the others; called without the lock.

        Returns:
          None where the update is to be given up.
        """
        state = self._state
        with state.changed:
            key = state.run, state.incarnation, version
        if self._first is None:
            with state.changed:
                return self._waited(key, 0, own, seconds=None)
        request = pb.SumSquaresRequest(run=key[0], incarnation=key[1], version=version, index=state.index, squares=own)
        while not self._is_over(key):
            try:
                reply, _ = self._first.call("SumSquares", request, timeout=10)
            except Lost as e:
                if e.answered:  # server 0 goes back to a snapshot, or has no run any more
                    return None
                state.closing.wait(HEARTBEAT_SECONDS)
                continue
            except (Fenced, Ended):
                return None
            if reply.whole:
                return reply.squares
        return None

    def answer(self, request: pb.SumSquaresRequest) -> pb.SumSquaresReply:
        """On server 0, to another: the sum, or `whole` false where it is to ask again. Blocks for a while.

        Raises:
          Ended, NotNow, Fenced: there is no such update to be made.
        """
        state = self._state
        with state.changed:
            state.check_caller(pb.Caller(run=request.run, incarnation=request.incarnation))
            key = request.run, request.incarnation, request.version
            found = self._waited(key, request.index, request.squares, LONG_POLL_SECONDS)
            state.check_caller(pb.Caller(run=request.run, incarnation=request.incarnation))
            if found is None and state.rollback_asked:
                raise NotNow("the servers go back to a snapshot")
            return pb.SumSquaresReply(whole=found is not None, squares=found or 0.0)

    def _waited(self, key: tuple[str, int, int], index: int, own: float, seconds: float | None) -> float | None:
        """Called with the lock. None: not there in time, or not any more."""
        state = self._state
        parts = self._parts.setdefault(key, {})
        parts[index] = own
        for old in list(self._parts)[:-_REMEMBERED]:
            del self._parts[old]
        state.changed.notify_all()
        deadline = time.monotonic() + seconds if seconds is not None else math.inf
        while len(parts) < len(state.addresses) and not self._is_over(key) and time.monotonic() < deadline:
            state.changed.wait(HEARTBEAT_SECONDS)  # not longer: a rollback is asked for without a word to the lock
        return sum(parts[i] for i in range(len(state.addresses))) if len(parts) == len(state.addresses) else None

    def _is_over(self, key: tuple[str, int, int]) -> bool:
        state = self._state
        gone = state.rolling or state.rollback_asked or state.ended is not None or state.closing.is_set()
        return gone or (state.run, state.incarnation) != key[:2]

    def close(self) -> None:
        if self._first is not None:
            self._first.close()
