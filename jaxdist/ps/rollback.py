"""Snapshots that all servers have, and going back to them: a new incarnation, when a server was started again.

server 0    SNAPSHOT ----> every server writes its shard ----> all have it: committed, run.json is written
            a server's `boot` differs, or misses operations -> Restore on all the others, then here -> go on
"""

from __future__ import annotations

import base64
import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced, Lost, Refused
from jaxdist.ps.layout_header import layout_from_header
from jaxdist.ps.operations import Operations
from jaxdist.ps.replication import OperationReplicator
from jaxdist.ps.run_settings import Settings
from jaxdist.ps.sequencer import Sequencer
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.shard import Shard
from jaxdist.ps.timing import HEARTBEAT_SECONDS


class Rollback:
    """A server's way back to a snapshot. All but `restore` and `reset` is for server 0's monitor thread.

    Args:
      others: server 0's replicators, one for each other server.
    """

    def __init__(self, state: ServerState, operations: Operations, others: Sequence[OperationReplicator]) -> None:
        self._state, self._operations, self._others = state, operations, others
        self._committed = 0  # the version to go back to
        self._asked: tuple[int, dict[str, Any], float] | None = None  # a snapshot not yet on every disk

    def find_stored_run(self) -> None:
        """Has server 0 go back to what is on its disk, if there is something. Called before any thread runs."""
        state = self._state
        stored = state.snapshots.load_run()
        if stored is not None and stored["servers"] != len(state.addresses):
            words = "There is a snapshot of %d servers here; it is of no use to %d."
            logging.warning(words, stored["servers"], len(state.addresses))
            stored = None
        if stored is not None:
            state.run, state.incarnation = stored["run"], stored["incarnation"]
            state.rolling = state.rollback_asked = True
            logging.info("Found the snapshot of version %d; going back to it.", stored["sequencer"]["version"])

    def reset(self) -> None:
        """Forgets the snapshots of a run. Called with the lock."""
        self._asked, self._committed = None, 0

    # Snapshots.

    @property
    def snapshot_is_pending(self) -> bool:
        return self._asked is not None

    def ask_snapshot(self, sequencer: Sequencer) -> bool:
        """Has every server write its shard at the present version; False while an earlier snapshot is on its way."""
        state = self._state
        with state.changed:
            now = time.monotonic()
            if sequencer is not state.sequencer:
                return False
            if self._asked is not None:
                if now - self._asked[2] < max(3 * sequencer.settings.snapshot_seconds, 30.0):
                    return False
                logging.error("A snapshot has not reached the disk of every server; trying another.")
            self._asked = (sequencer.version, sequencer.snapshot_record(), now)
            snapshot = pb.Operation(kind=pb.Operation.SNAPSHOT, version=sequencer.version, committed=self._committed)
            self._operations.emit(snapshot)
            return True

    def commit_snapshot(self) -> None:
        """Once every server has a version on disk, it is the one to go back to."""
        state = self._state
        with state.changed:
            if self._asked is None:
                return
            version, record, _ = self._asked
        on_disk = [state.snapshots.versions(), *(o.status.snapshots for o in self._others if o.status is not None)]
        if len(on_disk) == len(state.addresses) and all(version in versions for versions in on_disk):
            self._save_run(record)
            with state.changed:
                self._asked, self._committed = None, version

    def _save_run(self, record: dict[str, Any]) -> None:
        state = self._state
        with state.changed:
            if state.sequencer is None or state.shard is None:  # another run is beginning
                return
            settings, header = state.sequencer.settings, state.shard.header
            run = {"run": state.run, "servers": len(state.addresses), "incarnation": state.incarnation}
            run |= {"settings": dataclasses.asdict(settings)}
        state.snapshots.save_run(run | {"header": base64.b64encode(header).decode(), "sequencer": record})

    # Restarted servers.

    def a_server_was_restarted(self) -> bool:
        """Asks the other servers how they are; one that has failed ends the run. Blocks for their answers."""
        for other in self._others:
            try:
                status, _ = other.stub.call("Status", pb.StatusRequest(), timeout=5)
            except (Lost, Fenced, Ended):
                continue
            other.status = status
            if other.boot and other.boot != status.boot:
                logging.warning("The server at %s was started again.", other.stub.address)
                other.boot = status.boot
                return True
            other.boot = status.boot
            if status.failure:
                with self._state.changed:
                    assert self._state.sequencer is not None
                    self._state.sequencer.end(1, status.failure)
        return False

    # Going back.

    def restore(self, request: pb.RestoreRequest) -> None:
        """Back to a version, for server 0's request. Blocks until snapshots under way are written.

        Raises:
          Fenced: another run has begun here.
          ValueError: the snapshot is missing, damaged, or of another run.
        """
        with self._state.changed:
            if self._state.run not in ("", request.run):
                raise Fenced("another run has begun here")
            forgotten = self._state.runs_forgotten
        self._restore_shard(request.run, request.incarnation, request.version, request.header, forgotten)

    def _restore_shard(self, run: str, incarnation: int, version: int, header: bytes, forgotten: int) -> None:
        state = self._state
        state.writer.submit(lambda: None).result()  # nothing of the incarnation before is written after this
        vectors = state.snapshots.load(run, version)
        state.snapshots.drop([v for v in state.snapshots.versions() if v > version])
        shard = Shard(layout_from_header(header), state.index, len(state.addresses), state.rule)
        shard.restore(version, vectors)
        with self._operations.applying, state.changed:
            if state.run not in ("", run) or forgotten != state.runs_forgotten:  # meanwhile the chief has begun another
                raise Fenced("another run has begun here")
            state.begun, self._committed = True, version
            self._operations.reset()
            state.shard, state.run, state.incarnation = shard, run, incarnation
            state.heard = time.monotonic()
            state.changed.notify_all()
        logging.info("Back at version %d, incarnation %d.", version, incarnation)

    def roll_back(self) -> None:
        """A new incarnation of all servers, from the newest common snapshot.

        Blocks until every server is back, the run is over, or this server closes.
        """
        state = self._state
        stored = state.snapshots.load_run()
        with state.changed:
            if not state.rollback_asked:  # meanwhile the chief has begun another
                return
            before = state.sequencer
            if stored is None:
                if before is not None:
                    before.end(1, "a parameter server was lost before there was a snapshot to go back to")
                state.rollback_asked = False
                return
            state.rolling = True
            forgotten = state.runs_forgotten
            state.incarnation = max(state.incarnation, stored["incarnation"]) + 1
            state.changed.notify_all()
        run, record, header = stored["run"], Sequencer.beyond(stored["sequencer"]), base64.b64decode(stored["header"])
        request = pb.RestoreRequest(run=run, incarnation=state.incarnation, version=record["version"], header=header)
        for other in self._others:
            while not state.closing.is_set():
                if run != state.run or state.asked_to_end() is not None:  # the chief has begun another, or given up
                    return
                try:
                    other.stub.call("Restore", request, timeout=30)
                    other.boot = other.stub.call("Status", pb.StatusRequest(), timeout=5)[0].boot
                    break
                except Refused as e:
                    return self._cannot_roll_back(run, before, f"the server at {other.stub.address} says: {e}")
                except (Lost, Fenced) as e:
                    logging.warning("Waiting for a server to go back with: %s", e)
                    state.closing.wait(HEARTBEAT_SECONDS)
        try:
            self._restore_shard(run, state.incarnation, record["version"], header, forgotten)
        except Fenced:
            return
        except ValueError as e:
            return self._cannot_roll_back(run, before, str(e))
        with state.changed:
            if run != state.run:
                return
            for other in self._others:
                other.reset(run, state.incarnation)
            settings = Settings(**stored["settings"])
            state.sequencer = Sequencer(settings, self._operations.emit, state.changed, record)
            known = before.version if before is not None else None
            state.sequencer.note("servers_rolled_back", incarnation=state.incarnation, version_before=known)
            self._asked = None
        self._save_run(record)
        with state.changed:
            if run != state.run:
                return
            state.rolling = state.rollback_asked = False
            state.changed.notify_all()
        logging.warning("All servers are at version %d, incarnation %d.", record["version"], state.incarnation)

    def _cannot_roll_back(self, run: str, before: Sequencer | None, why: str) -> None:
        """Ends the run; or, where no run went on here, forgets the snapshot and waits for a chief."""
        state = self._state
        with state.changed:
            if run != state.run:  # the chief has begun another, and forgotten the snapshot
                return
            state.rollback_asked = False
            if before is not None:
                state.rolling = False
                before.end(1, f"the parameter servers cannot go back to their snapshot: {why}")
                return
            logging.warning("The snapshot is of no use (%s); waiting for a chief to begin a run.", why)
            state.snapshots.clear()
            state.run, state.shard, state.rolling = "", None, False
