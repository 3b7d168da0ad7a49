"""Which run a server serves: reserved for it, begun by its chief, forgotten after a phase, ended."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced, NotNow
from jaxdist.ps.layout_header import layout_from_header
from jaxdist.ps.operations import Operations
from jaxdist.ps.replication import OperationReplicator
from jaxdist.ps.rollback import Rollback
from jaxdist.ps.run_settings import Settings
from jaxdist.ps.sequencer import Sequencer
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.shard import Shard
from jaxdist.ps.signature import differences
from jaxdist.ps.timing import HEARTBEAT_SECONDS

RESERVED_SECONDS = 15.0


class ServedRun:
    """The run of one server.

    Args:
      others: server 0's replicators, one for each other server.
    """

    def __init__(
        self,
        state: ServerState,
        operations: Operations,
        rollback: Rollback,
        others: Sequence[OperationReplicator],
    ) -> None:
        self._state, self._operations, self._rollback, self._others = state, operations, rollback, others
        self._reserved, self._reserved_at = "", -RESERVED_SECONDS

    # Reserved.

    @property
    def is_reserved(self) -> bool:
        """Whether a run that is alive will need this server."""
        return time.monotonic() - self._reserved_at < RESERVED_SECONDS

    def _check_identity(self, identity: str) -> None:
        """Refuses callers of another run than the one that this server was started for."""
        own = self._state.signature.get("run", "")
        if identity != own:
            raise ValueError(
                f"server {self._state.index} was started for another run: for {own}, not for {identity or 'none'}. Two "
                "jobs use one port: give one of them another; or, where both are one run, the same --run_id"
            )

    def _check_reservation(self, reserve: str) -> None:
        """Refuses callers of another run than the one that has reserved this server. Called with the lock."""
        if self.is_reserved and reserve != self._reserved:
            raise ValueError(f"server {self._state.index} is reserved by another run, which is alive")

    def reserve(self, reserve: str, identity: str) -> None:
        """From a run that will need this server. Called with the lock.

        Raises:
          NotNow: reserved by another run.
          ValueError: it serves another run, or was started for one.
        """
        state = self._state
        self._check_identity(identity)
        if self.is_reserved and reserve != self._reserved:
            raise NotNow("it is reserved by another run, which was alive a moment ago")
        if reserve != self._reserved and state.run:  # left by a run that was killed, or gone back to by this server
            if state.sequencer is not None and state.sequencer.chief_lives:
                raise ValueError(f"server {state.index} serves another run, whose chief is alive")
            self._forget()
        self._reserved, self._reserved_at = reserve, time.monotonic()

    # Begun.

    def begin(self, request: pb.BeginRequest) -> None:
        """From a chief: without `ready` this server forgets everything, for its values to come; with `ready` they have.
        Either may be sent again. Blocks while an operation is being applied.

        Raises:
          ValueError: the request does not fit this server, which may be another run's, or values are missing.
          Fenced: another run has begun here.
        """
        state = self._state
        differing = differences(state.signature, json.loads(request.signature))
        if differing:
            raise ValueError(f"server {state.index} and the chief do not agree on {differing}")
        with state.changed:
            self._check_reservation(request.reserve)
            if state.sequencer is not None and request.run != state.run and state.sequencer.chief_lives:
                raise ValueError(f"server {state.index} serves another run, whose chief is alive")
        layout = layout_from_header(request.header)
        settings = Settings(**json.loads(request.settings))
        if request.ready:
            return self._go(request, settings)
        if request.run == state.run:  # sent again
            return
        shard = Shard(layout, state.index, len(state.addresses), state.rule)
        shard.most_staged = 8 + 4 * settings.num_workers
        with self._operations.applying, state.changed:
            state.snapshots.clear()
            state.run, state.incarnation, state.shard, state.sequencer = request.run, 1, shard, None
            state.rolling = state.rollback_asked = state.begun = False
            self._operations.reset()
            state.heard = time.monotonic()
            self._rollback.reset()
            for other in self._others:
                other.reset(state.run, state.incarnation)

    def _go(self, request: pb.BeginRequest, settings: Settings) -> None:
        state = self._state
        with state.changed:
            shard = state.loaded_shard()
            if request.run != state.run:
                raise Fenced("another run has begun here")
            if state.begun:  # sent again
                return
            if not shard.is_loaded:
                raise ValueError(f"server {state.index} is to begin without all of its values")
            shard.begin(settings.updates)
            state.begun, state.heard, state.settings = True, time.monotonic(), settings
            if state.index == 0:
                state.sequencer = Sequencer(settings, self._operations.emit, state.changed)
                logging.info("The run begins at version %d, with %s.", settings.updates, request.settings)
            state.changed.notify_all()

    # Forgotten.

    def _forget(self) -> None:
        """Forgets the run and waits for another. Called with the lock."""
        state = self._state
        state.runs_forgotten += 1
        state.run, state.shard, state.sequencer = "", None, None
        state.begun = state.rolling = state.rollback_asked = False
        self._operations.reset()
        self._rollback.reset()
        for other in self._others:
            other.reset("", 0)
            other.boot = ""
        state.writer.submit(state.snapshots.clear)  # after those that are being written
        state.heard = time.monotonic()
        state.changed.notify_all()

    # Ended.

    def end(self, request: pb.EndRequest) -> None:
        """From a chief, or from server 0: the run, one of its phases, or the wait for a run is over.

        Raises:
          Fenced: this server serves another run.
          ValueError: another run has reserved it, or it was started for another.
        """
        state = self._state
        if not request.run:
            self._check_identity(request.identity)
        with state.changed:
            lives = state.run if state.index else state.sequencer is not None and state.sequencer.chief_lives
            if request.run != state.run and (request.run or lives):
                raise Fenced("another run has begun here")
            self._check_reservation(request.reserve)
            if request.phase_over:
                logging.info("A phase is over; waiting for the next.")
                self._forget()
                return
            if state.index == 0 and state.run:
                state.end_asked = Ended(request.code, request.text)  # the monitor ends the others
                if state.sequencer is not None:
                    state.sequencer.end(request.code, request.text)
            else:
                state.finish(request.code, request.text)

    def stop_if_idle(self) -> None:
        """Ends this server where no run goes on. Safe in a signal handler: takes no lock."""
        state = self._state
        if state.index == 0:
            lives = state.sequencer is not None and state.sequencer.chief_lives
        else:
            lives = bool(state.run) and time.monotonic() - state.heard < 10 * HEARTBEAT_SECONDS
        if not (lives or self.is_reserved):
            state.ended = Ended(143, "SIGTERM came while no run went on: there was nothing to save.")
