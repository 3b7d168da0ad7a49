"""The connection between the processes of a run: rendezvous first, then JAX's collectives."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdist.cluster.detect import Cluster
from jaxdist.cluster.rendezvous import Peers
from jaxdist.errors import PeerError, UsageError


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


def shared_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` with the versions: what all processes of a run must have alike."""
    return facts | versions()


def connect(cluster: Cluster, *, facts: dict[str, Any], settings: Mapping[str, Any], collectives: bool) -> Peers | None:
    """Collective: meets the other processes, checks that all agree on `facts`, and starts the collectives' runtime.

    Must come before anything else uses JAX's devices. None for a run of one process.

    Args:
      facts: what must be equal everywhere (configuration); the versions are added.
      settings: timeout_seconds, connect_timeout_seconds, compile_timeout_seconds, evaluate_timeout_seconds.
      collectives: whether the strategy needs `jax.distributed`.

    Raises:
      UsageError: somebody is missing, twice there, unreachable or different.
    """
    if cluster.num_processes == 1:
        return None
    if not cluster.coordinator_address:
        raise UsageError("This strategy's processes meet at process 0: --coordinator_address=HOST:PORT is needed too.")
    slow = settings["compile_timeout_seconds"]
    peers = Peers(
        cluster.coordinator_address,
        cluster.process_id,
        cluster.num_processes,
        connect_timeout=settings["connect_timeout_seconds"],
        timeout_seconds=settings["timeout_seconds"],
        limits={
            "start": slow,
            "compile": slow,
            "checkpoint": slow,
            "switch": slow,
            "evaluate": settings["evaluate_timeout_seconds"],
        },
    )
    logging.info(
        "Process %d of %d, meeting at %s.", cluster.process_id, cluster.num_processes, cluster.coordinator_address
    )
    peers.agree("versions and configuration", shared_facts(facts) | {"num_processes": cluster.num_processes})
    if collectives:
        try:
            open_collectives(cluster, peers, settings)
        except Exception as e:
            peers.fail(f"the collectives did not start: {e}")
            raise
    peers.start_watch()
    return peers


def open_collectives(cluster: Cluster, peers: Peers, settings: Mapping[str, Any], name: str = "the run") -> None:
    """Collective: JAX sees all processes' devices from now on. Arrays on devices are lost; `name` is used once."""
    import jax
    from jax.extend.backend import clear_backends

    clear_backends()  # those of this process alone, where it has used some
    host = cluster.coordinator_address.rpartition(":")[0]
    address = f"{host}:{_free_port()}" if cluster.is_chief else ""
    address = peers.gather(f"the address of the collectives of {name}", address)[0]
    # Two things of JAX's that would race with ours: its own SIGTERM handler, and its heartbeats, which abort the
    # process without a name for what went wrong. They stay as the last resort.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        cluster.num_processes,
        cluster.process_id,
        initialization_timeout=int(settings["connect_timeout_seconds"]),
        heartbeat_timeout_seconds=int(max(100, 3 * settings["timeout_seconds"])),
    )
    open_connections()


def close_collectives() -> None:
    """Collective: JAX sees this process's devices alone from now on. Arrays on devices are lost.

    `jax.process_count()` stays what it was on the processes other than 0: ask `Cluster` for it.
    """
    import jax
    from jax.extend.backend import clear_backends

    jax.distributed.shutdown()
    clear_backends()


def open_connections() -> None:
    """Collective: one tiny sum over all devices, while all processes are at the same place.

    The first collective over a set of devices connects them, and gloo's members wait 30 seconds for each other, which
    no setting changes. Processes that compile their first step may be further apart than that.
    """
    import jax
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    ones = jax.make_array_from_callback((mesh.size,), NamedSharding(mesh, P("all")), lambda index: np.ones(1, np.int32))
    total = jax.shard_map(lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=P("all"), out_specs=P())
    jax.block_until_ready(jax.jit(total)(ones))


def disconnect(peers: Peers | None) -> None:
    """Collective: ends the collectives' runtime and the watch; the processes must all have finished their work."""
    if peers is None:
        return
    import jax

    if not peers.watching:  # apart, nobody waits for anybody
        peers.close()
        return
    try:
        peers.gather("the end", True, timeout=600.0)
    except (PeerError, UsageError) as e:
        logging.warning("The work is done and saved, but not all processes came to the end: %s", e)
        peers.close()
        return
    peers.close()
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]
