"""The service of process 0, and every process's connection to it.

    Connection (every process)            Coordinator (process 0, one gRPC server)
      rendezvous   gather, await  ----->    RendezvousServer --+
      watchdog     heartbeat,     ----->    WatchdogServer   --+-- Membership
                   rejoin, watch                               |
      fail, leave, phase          ----->    -------------------+
      arrays       fetch          ----->    ArrayServer

It comes before `jax.distributed`, which aborts the process in C++ on a wrong id or an unreachable coordinator, and it
serves runs that need no `jax.distributed` at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from jaxdist.cluster.calls import HEARTBEAT_SECONDS, CoordinatorClient
from jaxdist.cluster.detect import Cluster
from jaxdist.cluster.membership import Membership
from jaxdist.cluster.rendezvous import Rendezvous, RendezvousServer
from jaxdist.cluster.watchdog import PHASE_BOUNDARY, Watchdog, WatchdogServer
from jaxdist.comm.addresses import where_to_listen
from jaxdist.comm.array_server import ArrayClient, ArrayServer
from jaxdist.comm.rpc import CallError, Server
from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import UsageError


class Coordinator:
    """What process 0 serves at the coordinator's address.

    Raises:
      OSError: the address cannot be bound.
    """

    def __init__(
        self, address: str, num_processes: int, timeout_seconds: float, run: str = "", security: Security = OPEN
    ) -> None:
        self.membership = Membership(num_processes, run)
        self.rendezvous = RendezvousServer(self.membership)
        self.arrays = ArrayServer()
        watchdog = WatchdogServer(self.membership, timeout_seconds)
        self._server = Server(
            address,
            self.membership.methods | self.rendezvous.methods | watchdog.methods | self.arrays.methods,
            watchdog.streams,
            threads=4 * num_processes + 4,
            admit=self.membership.admit,
            silent_seconds=timeout_seconds,
            security=security,
            denied=self.membership.note_denied,
        )

    def close(self, patience: float = 10.0) -> None:
        """Waits for the others to leave, for `patience` seconds at most, then ends the service."""
        self.membership.wait_until_all_left(patience)
        self._server.close()


class Connection:
    """A process's connection to the service, which it starts where it is process 0. Waits for nobody.

    Args:
      settings: `config.cluster`.
      run: which one this process belongs to (`identity`).

    Attributes:
      coordinator: the service, on process 0.

    Raises:
      UsageError: this is process 0, and the address cannot be bound, or it has no certificate.
    """

    def __init__(self, cluster: Cluster, settings: Mapping[str, Any], run: str = "") -> None:
        address, process_id = cluster.coordinator_address, cluster.process_id
        slow = settings["compile_timeout_seconds"]
        limits = {"start": slow, "compile": slow, "checkpoint": slow, PHASE_BOUNDARY: slow, "profile": slow}
        limits["evaluate"] = settings["evaluate_timeout_seconds"]
        self.timeout = settings["timeout_seconds"]
        self.coordinator: Coordinator | None = None
        if process_id == 0:
            cluster.security.check_certificate("Process 0")
            try:
                self.coordinator = Coordinator(
                    where_to_listen(address), cluster.num_processes, self.timeout, run, cluster.security
                )
            except OSError as e:
                raise UsageError(f"Process 0 cannot serve at --coordinator_address={address}: {e}.") from e
        self.client = CoordinatorClient(address, process_id, run, cluster.security)
        self.rendezvous = Rendezvous(self.client, cluster.num_processes)
        self.watchdog = Watchdog(self.client, limits=limits, timeout_seconds=self.timeout)
        self.arrays = ArrayClient(self.client.rpc, 0, seconds=settings["connect_timeout_seconds"])

    def share_fate(self) -> None:
        """From now on this process ends when another one is lost. Blocks for process 0's answer, after the first time.

        Raises:
          PeerError: process 0 gives no answer.
        """
        if self.rendezvous.run_has_begun:
            self.watchdog.rejoin()
        self.announce_phase(-1)
        self.rendezvous.run_has_begun = True
        self.watchdog.start()

    def announce_phase(self, phase: int) -> None:
        """On process 0: lets processes that are started again into `phase`. Elsewhere nothing. Does not block."""
        if self.coordinator is not None:
            self.coordinator.membership.announce_phase(phase)

    def phase_under_way(self) -> int:
        """What process 0 has announced; -1: nothing, because fate-sharing is on. Blocks for the answer.

        Raises:
          PeerError: process 0 gives no answer.
        """
        return self.client.ask("phase", self.timeout)

    def announce_or_await(self, name: str, value: Any, timeout: float) -> Any:
        """Process 0's value: it announces its own and does not block; the others block until it has.

        Raises:
          PeerError: process 0 failed, was lost or announced nothing for `timeout` seconds.
          Preempted: it was stopped after saving.
        """
        if self.coordinator is not None:
            self.coordinator.rendezvous.announce(name, value)
            return value
        return self.rendezvous.await_value(name, timeout)

    def fail(self, text: str, code: int) -> None:
        """Tells the others why this process is about to end, and with which exit code; they end with the same. Blocks
        for a few seconds at most."""
        self.watchdog.disarm()
        with contextlib.suppress(CallError):
            self.client.rpc.call("fail", self.client.payload(text=text, code=code), timeout=5)
        if self.coordinator is not None:
            time.sleep(2 * HEARTBEAT_SECONDS)  # for the others to get it from this process before it is gone

    def close(self, patience: float = 5.0) -> None:
        """Leaves the run in good order; idempotent. Process 0 waits for the others to leave.

        Args:
          patience: seconds for process 0 to know it, and about the same for the others to leave.
        """
        if not self.watchdog.disarm():
            return
        with contextlib.suppress(CallError):
            self.client.rpc.call("leave", self.client.payload(), timeout=patience)
        if self.coordinator is not None:
            self.coordinator.close(5.0 + patience)
        self.client.close()
