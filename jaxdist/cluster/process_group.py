"""The processes of a run as a whole, as a strategy of several phases asks for them.

collectives open, lives tied      a lost process ends the run: synchronous phases
collectives closed, lives apart   a lost process is the servers' affair: asynchronous phases
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from jaxdist import cluster as cluster_lib
from jaxdist.checkpoint.restore import share
from jaxdist.cluster import Cluster
from jaxdist.cluster.rendezvous import Peers
from jaxdist.state import TrainState
from jaxdist.task import Task


class ProcessGroup:
    """Every method is collective where it says so; without `peers` (one process) there is nothing to do.

    Args:
      settings: `config.cluster`.
    """

    def __init__(self, cluster: Cluster, peers: Peers | None, task: Task, settings: Mapping[str, Any]) -> None:
        self._cluster, self._peers, self._task, self._settings = cluster, peers, task, settings
        self._open = False

    @property
    def host(self) -> str:
        """Where the other processes reach this one."""
        return cluster_lib.own_host(self._cluster)

    def gather(self, name: str, value: Any) -> list[Any]:
        """Collective: every process's value (JSON); `name` is used once."""
        if self._peers is None:
            return [value]
        return self._peers.gather(name, value, timeout=self._settings["compile_timeout_seconds"])

    def phase_under_way(self) -> int:
        """The phase that the chief's processes are in, as a process that is started again needs to know; -1: none."""
        return -1 if self._peers is None else self._peers.phase_under_way()

    def open_collectives(self, name: str) -> None:
        """Collective: ties the processes' lives together and connects their devices. All arrays on devices are lost.

        Raises:
          PeerError: a process did not come.
        """
        if self._peers is None or self._open:
            return
        if not self._peers.watching:
            self._peers.gather(f"the beginning of {name}", True, timeout=self._settings["timeout_seconds"])
            self._peers.start_watch()
        cluster_lib.open_collectives(self._cluster, self._peers, self._settings, name)
        self._open = True

    def close_collectives(self) -> None:
        """Collective, lives tied: each process sees its own devices alone from now on. Arrays on devices are lost."""
        if self._open:
            cluster_lib.close_collectives()
            self._open = False

    def part(self, name: str, phase: int) -> None:
        """Collective, collectives closed: the processes' lives are no longer tied, and `phase` is under way."""
        if self._peers is None:
            return
        if self._peers.watching:
            self._peers.gather(f"{name} under way", True, timeout=self._settings["compile_timeout_seconds"])
            self._peers.stop_watch()
            logging.info("The processes' lives are apart: a worker that is lost stops nobody.")
        self._peers.announce_phase(phase)

    def share(self, state: TrainState | None, name: str) -> TrainState:
        """Collective: the chief's canonical state on every process; leaves are fetched when they are asked for."""
        if self._peers is None:
            assert state is not None
            return state
        return share(self._peers, state, f"the state at {name}")

    def shared(self, name: str) -> None:
        """Collective: every process has taken its leaves; the chief need not keep them."""
        if self._peers is not None:
            self._peers.gather(f"the state at {name} is everywhere", True)
            if self._peers.chief is not None:
                self._peers.chief.serve_leaves({})

    def decide(self, name: str, value: Any) -> Any:
        """Collective while lives are tied: the chief's value. The process's own where they are apart."""
        if self._peers is None or not self._peers.watching:
            return value
        return self._peers.gather(name, value, timeout=self._settings["timeout_seconds"])[0]

    def what_follows(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        """At the end of a phase: what the chief says; where lives are tied, to stop (`said['what']`) if anybody does.

        Blocks the others for as long as the chief may evaluate and save.
        """
        if self._peers is None:
            return said
        slow = self._settings["evaluate_timeout_seconds"] + self._settings["compile_timeout_seconds"]
        if not self._peers.watching:
            return self._peers.say_or_hear(name, said, slow)
        every = self._peers.gather(name, said, timeout=slow)
        return next((one for one in every if one["what"] == "stop"), every[0])
