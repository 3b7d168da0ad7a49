"""Server 0's look at the run, again and again: leases, restarted servers, snapshots, and the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced, Lost
from jaxdist.ps.replication import OperationReplicator
from jaxdist.ps.rollback import Rollback
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.timing import HEARTBEAT_SECONDS


class Monitor:
    """The work of one thread on server 0.

    Args:
      others: the replicators, one for each other server.
    """

    def __init__(self, state: ServerState, rollback: Rollback, others: Sequence[OperationReplicator]) -> None:
        self._state, self._rollback, self._others = state, rollback, others

    def run(self) -> None:
        """Blocks until the run has ended on all servers, or this server closes."""
        state, rollback = self._state, self._rollback
        snapshot_at = 0.0
        while not state.closing.is_set():
            with state.changed:
                sequencer = state.sequencer
                if sequencer is not None and not state.rolling:
                    state.heard = time.monotonic()
                    sequencer.drop_silent()
                ended = state.asked_to_end()
                if ended is not None:
                    break
            if state.rollback_asked:
                rollback.roll_back()
            elif sequencer is not None:
                if rollback.a_server_was_restarted():
                    state.rollback_asked = True
                    continue
                if time.monotonic() >= snapshot_at and rollback.ask_snapshot(sequencer):
                    snapshot_at = time.monotonic() + sequencer.settings.snapshot_seconds
                rollback.commit_snapshot()
            soon = sequencer is None or rollback.snapshot_is_pending
            state.closing.wait(HEARTBEAT_SECONDS / 5 if soon else HEARTBEAT_SECONDS)
        else:
            return
        self._announce_end(ended)

    def _announce_end(self, ended: Ended) -> None:
        """Waits until the workers have asked, then ends the other servers and this one."""
        state, sequencer = self._state, self._state.sequencer
        knows = {0} if state.end_asked is not None else set()  # the chief, which has ended the run
        if sequencer is not None and (sequencer.controller.members.keys() - knows or sequencer.has_evaluator):
            state.closing.wait(6 * HEARTBEAT_SECONDS)  # each asks at least once between two heartbeats
        for other in self._others:
            with contextlib.suppress(Lost, Fenced, Ended):
                request = pb.EndRequest(run=state.run, code=ended.code, text=ended.text)
                other.stub.call("End", request, timeout=5)
        with state.changed:
            state.finish(ended.code, ended.text)
