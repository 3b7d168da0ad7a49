"""The processes of a run as a whole: the one object through which training sees them.

fate-sharing on       a lost process ends the run: synchronous phases, whose collectives are open
fate-sharing off      a lost process is the servers' affair: asynchronous phases, whose collectives are closed
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdist.cluster import collectives as runtime
from jaxdist.cluster import hosts, share_state
from jaxdist.cluster.coordinator import Connection
from jaxdist.cluster.detect import Cluster
from jaxdist.comm.ports import Ports
from jaxdist.comm.security import Security
from jaxdist.errors import PeerError, Preempted, UsageError
from jaxdist.state import LazyArray, TrainState


class ProcessGroup:
    """What the processes of a run do together. `cluster.connect` makes it.

    A collective method must be called by all processes, in the same order; a `name` is used once in a run. In a group
    of one process, and in one that is `alone`, nothing blocks and nothing fails: everybody's values are its own.

    Args:
      settings: `config.cluster`.
      connection: to process 0; None where this process has no use for others.
    """

    def __init__(self, cluster: Cluster, settings: Mapping[str, Any], connection: Connection | None) -> None:
        self._cluster, self._settings, self._connection = cluster, settings, connection
        self._collectives_open = False
        self._closed = 0  # how often
        self._hosts = ["127.0.0.1"] * cluster.num_processes
        self._ports = Ports(settings.get("port_range", ""))

    @classmethod
    def alone(cls, cluster: Cluster, settings: Mapping[str, Any]) -> ProcessGroup:
        """Of a process that needs no rendezvous at process 0: the one of a run, or a worker of parameter servers."""
        return cls(cluster, settings, None)

    @property
    def process_id(self) -> int:
        return self._cluster.process_id

    @property
    def num_processes(self) -> int:
        return self._cluster.num_processes

    @property
    def is_chief(self) -> bool:
        """Of this process alone: it reads and writes the run directory."""
        return self._cluster.is_chief

    @property
    def host(self) -> str:
        """Where the other processes reach this one, without brackets; known after `find_hosts`."""
        return self._hosts[self.process_id]

    @property
    def ports(self) -> Ports:
        """Where this process may listen."""
        return self._ports

    @property
    def security(self) -> Security:
        """What everything of this run that listens asks for."""
        return self._cluster.security

    def reach(self) -> None:
        """At the start: blocks until process 0 answers, and logs what keeps it from that. Not collective.

        Raises:
          UsageError: it cannot be reached in time, is no process 0 of this run, or refuses this process.
        """
        if self._connection is not None:
            self._connection.rendezvous.reach(self.connect_timeout)

    def find_hosts(self) -> None:
        """Collective: where each process is reached. Blocks until all have come.

        Raises:
          UsageError: an address is not of its host, or some cannot be reached by others.
        """
        said = self.gather("hosts", hosts.facts(self._cluster, self._settings["address"]), self.connect_timeout)
        self._hosts = hosts.agreed(said)

    @property
    def fate_sharing(self) -> bool:
        """Whether a lost process ends the run; never in a group of one."""
        return self._connection is not None and self._connection.watchdog.active

    @property
    def connect_timeout(self) -> float:
        """Seconds that the others may take to come at the start, and an array's next bytes at any time."""
        return self._settings["connect_timeout_seconds"]

    # Values.

    def gather(self, name: str, value: Any, timeout: float | None = None) -> list[Any]:
        """Collective: every process's value (JSON), by process id. Blocks until all have come.

        Args:
          timeout: seconds to wait for them; None: compile_timeout_seconds.

        Raises:
          UsageError: at the start, somebody did not come in time or process 0 cannot be reached.
          PeerError: the same later, or another process failed or was lost.
          Preempted: another process was stopped after saving.
        """
        if self._connection is None:
            return [value]
        if timeout is None:
            timeout = self._settings["compile_timeout_seconds"]
        return self._connection.rendezvous.gather(name, value, timeout)

    def agree(self, name: str, signature: dict[str, Any], timeout: float | None = None) -> None:
        """Collective: refuses to go on unless all processes have an equal `signature`. Blocks until all have come.

        Args:
          timeout: seconds to wait for them; None: connect_timeout_seconds.

        Raises:
          UsageError: they differ (names the fields, by process), or as `gather`.
          PeerError, Preempted: as `gather`.
        """
        if self._connection is not None:
            self._connection.rendezvous.agree(name, signature, self.connect_timeout if timeout is None else timeout)

    def broadcast(self, name: str, value: Any) -> Any:
        """The chief's value. Collective and blocking while fate-sharing is on; the process's own value where it is off.

        Raises:
          PeerError: another process failed, was lost or did not come in time.
        """
        if not self.fate_sharing:
            return value
        return self.gather(name, value, self._settings["timeout_seconds"])[0]

    def agree_on_next(self, name: str, proposal: dict[str, Any]) -> dict[str, Any]:
        """At the end of a phase: what comes next. Collective; blocks the others while the chief evaluates and saves.

            fate-sharing on     the chief's proposal, or that of anybody whose `proposal['what']` is 'stop'
            fate-sharing off    the chief's proposal, which it announces and the others await

        Raises:
          PeerError: another process (fate-sharing off: process 0) failed, was lost or did not come in time.
          Preempted: it was stopped after saving.
        """
        if self._connection is None:
            return proposal
        slow = self._settings["evaluate_timeout_seconds"] + self._settings["compile_timeout_seconds"]
        if not self.fate_sharing:
            return self._connection.announce_or_await(name, proposal, slow)
        proposals = self.gather(name, proposal, slow)
        return next((one for one in proposals if one["what"] == "stop"), proposals[0])

    # The state.

    def broadcast_state(self, state: TrainState | None, name: str) -> TrainState:
        """Collective: the chief's canonical state on every process (None on those that have none). Blocks until all
        have come; arrays are fetched when they are asked for, until `state_received`.

        Raises:
          PeerError: another process failed, was lost or did not come in time.
        """
        if self._connection is None:
            assert state is not None
            return state
        return share_state.share(self, state, f"the state at {name}")

    def state_received(self, name: str) -> None:
        """Collective: every process has its arrays, and the chief need not keep them. Blocks until all have come.

        Raises:
          PeerError: another process failed, was lost or did not come in time.
        """
        self.gather(f"the state at {name} is everywhere", True, self.connect_timeout)
        if self._connection is not None and self._connection.coordinator is not None:
            self._connection.coordinator.arrays.clear()

    def serve_arrays(self, version: int, arrays: Mapping[str, Any]) -> None:
        """On the chief: serves these arrays alone, as of an update, each made when it is first asked for. Elsewhere
        nothing. Not collective; blocks only while one of the former is being made."""
        if self._connection is not None and self._connection.coordinator is not None:
            self._connection.coordinator.arrays.replace(version, arrays)

    def served_array(self, version: int, name: str, shape: tuple[int, ...], dtype: np.dtype) -> LazyArray:
        """What the chief serves under that name, fetched when it is asked for (`ConnectionLost` where it does not
        come). Not collective; does not block."""
        assert self._connection is not None
        return self._connection.arrays.lazy(version, name, shape, dtype)

    # Fates and devices.

    def begin(self, *, collectives: bool) -> None:
        """Collective: fates are shared, for the first time; with `collectives`, these are opened before. Blocks.

        Raises:
          UsageError, PeerError: somebody did not come.
        """
        assert self._connection is not None
        if collectives:
            try:
                self._start_collectives("the run")
            except Exception as e:
                self.fail(f"the collectives did not start: {e}")
                raise
        self._connection.share_fate()

    def open_collectives(self, name: str) -> None:
        """Collective: turns fate-sharing on and connects all processes' devices. All arrays on devices are lost. Blocks
        until all have come; nothing where collectives are open.

        Raises:
          PeerError: a process did not come.
        """
        if self._connection is None or self._collectives_open:
            return
        if not self.fate_sharing:
            self.gather(f"the beginning of {name}", True, self._settings["timeout_seconds"])
            self._connection.share_fate()
        self._start_collectives(name)

    def _start_collectives(self, name: str) -> None:
        def from_chief(address: str) -> str:
            return self.gather(f"the address of the collectives of {name}", address, self.connect_timeout)[0]

        runtime.start(self._cluster, self._settings, self.host, self.ports, from_chief)
        self._collectives_open = True

    def close_collectives(self) -> None:
        """Collective, fate-sharing on: each process sees its own devices alone from now on. All arrays on devices are
        lost. Blocks until all have come; nothing where collectives are closed."""
        if self._collectives_open:
            self._closed += 1
            runtime.stop(lambda: self.gather(f"the end of collectives {self._closed}", True))
            self._collectives_open = False

    def end_fate_sharing(self, name: str, phase: int) -> None:
        """Collective, collectives closed: turns fate-sharing off; `phase` is under way, for processes that are started
        again. Blocks until all have come.

        Raises:
          PeerError: another process failed, was lost or did not come in time.
        """
        if self._connection is None:
            return
        if self.fate_sharing:
            self.gather(f"{name} under way", True)
            self._connection.watchdog.stop()
            logging.info("Fate-sharing is off: a worker that is lost stops nobody.")
        self._connection.announce_phase(phase)

    def phase_under_way(self) -> int:
        """The phase that the run is in already, as a process that is started again needs to know; -1: none. Not
        collective; blocks for process 0's answer.

        Raises:
          PeerError: process 0 gives no answer.
        """
        return -1 if self._connection is None else self._connection.phase_under_way()

    # Of this process alone: not collective, and blocking only where it is noted.

    def activity(self, name: str) -> contextlib.AbstractContextManager[None]:
        """While open, this process is busy with something that may have a time limit of its own ('start', 'compile',
        'checkpoint', 'switch', 'evaluate')."""
        return contextlib.nullcontext() if self._connection is None else self._connection.watchdog.activity(name)

    def note_progress(self, update: int) -> None:
        """This process has completed `update`."""
        if self._connection is not None:
            self._connection.watchdog.note_progress(update)

    def diagnose(self, error: BaseException) -> PeerError | None:
        """After a collective or a connection failed: an error that names the process whose fault it is. Blocks until
        the watchdog knows, for timeout_seconds at most; None where it finds nothing."""
        return None if self._connection is None else self._connection.watchdog.diagnose(error)

    def fail(self, text: str, code: int = 1) -> None:
        """Tells the others why this process is about to end, and with which exit code; they end with the same. Blocks
        for a few seconds at most."""
        if self._connection is not None:
            self._connection.fail(text, code)
            runtime.exit_without_shutdown(code)

    def disconnect(self) -> None:
        """Collective while fate-sharing is on: ends the collectives' runtime and fate-sharing, when all processes have
        finished their work. Blocks until all have; that some have not is logged, not raised."""
        if self._connection is None:
            return
        if not self.fate_sharing:  # nobody waits for anybody
            self.close()
            return
        try:
            self.gather("the end", True, 600.0)
        except (PeerError, Preempted, UsageError) as e:
            logging.warning("The work is done and saved, but not all processes came to the end: %s", e)
            self.close()
            return
        connection = self._connection
        runtime.stop_at_the_end(lambda: connection.close(connection.timeout))

    def close(self) -> None:
        """Leaves the run in good order; idempotent, and nothing after `fail`. On process 0 it blocks a moment for the
        others to leave."""
        if self._connection is not None:
            self._connection.close()
