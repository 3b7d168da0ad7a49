"""The profile of a worker, and of a server, as the configuration asks for it."""

from __future__ import annotations

import functools
import pathlib
import socket
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxdist import config as config_lib
from jaxdist import strategies
from jaxdist.cluster import Cluster
from jaxdist.config.phases import schedule_of
from jaxdist.profiling.model_flops import forward_flops
from jaxdist.profiling.run_profile import RunProfile
from jaxdist.profiling.windows import Window, windows
from jaxdist.ps import ParameterServer
from jaxdist.runtime import compilation
from jaxdist.task import Task
from jaxdist.train.setup import total_examples

FOLDER = "profile"
_COMPARED = ("model.", "data.name", "data.augment", "optim.name", "global_batch_size")


def profile_of(config: ConfigDict, workdir: str, cluster: Cluster, task: Task, num_train: int) -> RunProfile:
    """A worker's; it does nothing where none is asked for.

    Raises:
      UsageError: of updates or epochs that the run does not have.
    """
    found = windows(
        config.profile,
        epoch_examples=num_train,
        smallest_update=config.global_batch_size // (cluster.num_processes if _asynchronous(config) else 1),
        total_examples=total_examples(config, num_train),
    )
    if found:
        compilation.keep_names()
    return RunProfile(
        pathlib.Path(workdir) / FOLDER,
        f"worker-{cluster.process_id}",
        found,
        _about(config, cluster),
        blocks=frozenset(task.model.names),
        flops=functools.partial(forward_flops, task.model),
    )


class ServedProfile:
    """A server's: which updates are profiled, the run's chief says when it begins."""

    def __init__(self, config: ConfigDict, workdir: str, cluster: Cluster) -> None:
        self._folder, self._about = pathlib.Path(workdir) / FOLDER, _about(config, cluster)
        self._process = f"server-{cluster.server_index}"
        self._profile: RunProfile | None = None
        self._asked: Sequence[Sequence[Any]] = ()
        self._version = 0
        if config.profile.at_epochs or config.profile.updates:
            compilation.keep_names()

    def at(self, version: int, server: ParameterServer) -> None:
        """After an update; blocks where a profile begins or ends."""
        self._version = version
        if self._profile is None or server.profiled != self._asked:  # a phase has begun
            self.end()
            self._asked = server.profiled
            found = [Window(*fields) for fields in self._asked]
            self._profile = RunProfile(self._folder, self._process, found, self._about, in_background=True)
        self._profile.at(version)

    def end(self) -> None:
        """Ends a window that is under way, as the run does, or its phase."""
        if self._profile is not None:
            self._profile.end(self._version)

    def close(self) -> None:
        """The same, and waits for the tables."""
        self.end()
        if self._profile is not None:
            self._profile.close()


def _asynchronous(config: ConfigDict) -> bool:
    """Whether some updates of the run are of one process's examples."""
    return any(
        strategies.spec_of(phase.name).asynchronous(phase.settings(config.strategy))
        for phase in schedule_of(config.strategy).phases
    )


def _about(config: ConfigDict, cluster: Cluster) -> dict[str, Any]:
    values = config_lib.flatten(config)
    return {
        "strategy": config.strategy.name,
        "num_processes": cluster.num_processes,
        "host": socket.gethostname(),
        "config": {key: value for key, value in values.items() if key.startswith(_COMPARED)},
    }
