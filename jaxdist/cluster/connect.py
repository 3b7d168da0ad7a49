"""How the processes of a run come together: rendezvous first, then JAX's collectives, then they share their fate."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Callable, Mapping
from typing import Any

from jaxdist.cluster.coordinator import Connection
from jaxdist.cluster.detect import Cluster
from jaxdist.cluster.process_group import ProcessGroup
from jaxdist.errors import UsageError, ending


def versions() -> dict[str, str]:
    """What must be equal on all processes for their numbers to be equal."""
    packages = ("jaxdist", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def run_signature(config_values: dict[str, Any]) -> dict[str, Any]:
    """What all processes of a run must have alike: the values of the configuration that matter, and the versions."""
    return config_values | versions()


def connect(
    cluster: Cluster,
    *,
    run: str,
    signature: dict[str, Any],
    settings: Mapping[str, Any],
    collectives: bool,
    opened: Callable[[ProcessGroup], object] = lambda group: None,
) -> ProcessGroup:
    """The processes of the run, once all have come, have been found alike, and share their fate. Collective; blocks.

    Must come before anything else uses JAX's devices. In a run of one process there is nothing to wait for.

    Args:
      run: which one this process belongs to (`identity`).
      signature: configuration values that must be equal everywhere; the versions are added.
      settings: timeout_seconds, connect_timeout_seconds, compile_timeout_seconds, evaluate_timeout_seconds.
      opened: called with the group before anybody is waited for.
      collectives: whether JAX's collectives are to be open from the start.

    Raises:
      UsageError: somebody is missing, twice there, unreachable or different.
      PeerError: another process failed.
    """
    if cluster.num_processes == 1:
        return ProcessGroup.alone(cluster, settings)
    if not cluster.coordinator_address:
        raise UsageError(
            "This strategy has its rendezvous at process 0: --coordinator_address=HOST:PORT is needed too."
        )
    group = ProcessGroup(cluster, settings, Connection(cluster, settings, run))
    logging.info(
        "Process %d of %d, rendezvous at %s.", cluster.process_id, cluster.num_processes, cluster.coordinator_address
    )
    opened(group)
    try:
        group.reach()
        group.agree("versions and configuration", run_signature(signature) | {"num_processes": cluster.num_processes})
        group.find_hosts()
        group.begin(collectives=collectives)
    except BaseException as e:  # and process 0 stays for a moment, for the others to get their answers
        code, text = ending(e)
        group.fail(text, code)
        raise
    return group
