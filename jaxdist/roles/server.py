"""`--role=server`: one parameter server, from its configuration alone; it knows the optimizer, not the model."""

from __future__ import annotations

import logging
import pathlib
import signal
import threading
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from jaxdist import cluster as cluster_lib
from jaxdist import config as config_lib
from jaxdist.cluster import Cluster
from jaxdist.errors import PeerError, UsageError
from jaxdist.optim import optimizers
from jaxdist.ps import ParameterServer
from jaxdist.roles.profiles import ServedProfile
from jaxdist.runtime import compilation
from jaxdist.runtime.fault_injection import Faults
from jaxdist.runtime.stop_signal import StopSignal
from jaxdist.strategies.optimizer_check import refuse_rule_unless_elementwise


def update_rule(config: ConfigDict) -> optimizers.Optimizer:
    """The optimizer, as a server applies it to its shard.

    Raises:
      UsageError: it cannot be built, or not be applied to a part of the model.
    """
    try:
        rule = optimizers.configured(config.optim)
    except (ValueError, TypeError) as e:
        raise UsageError(f"The update rule cannot be built: {e}") from e
    refuse_rule_unless_elementwise(rule, "a parameter server, which has a part of each kind of tensor")
    return rule


def serve(
    config: ConfigDict,
    workdir: str,
    cluster: Cluster,
    *,
    stop_signal: StopSignal | None = None,
    show: Callable[[Mapping[str, int]], None] | None = None,
) -> tuple[int, str]:
    """Serves until the chief ends the run. Returns (exit code, reason). `config` is known to be valid; `stop_signal` is
    open while SIGTERM ends the process at once, until it serves. `show` takes {'updates': N} at every update; it must
    neither block nor fail.

    Raises:
      UsageError: the address is in use, not this host's, or open to others without a token; the update rule cannot be
        applied to a part of the model.
      PeerError: nobody came.
    """
    cluster.check_secret()
    cluster.check_ports(config.cluster.port_range)
    address = cluster.server_addresses[cluster.server_index]
    compilation.set_up(config.compilation_cache, config.model.param_dtype)
    faults = Faults(cluster.server_index, role="server")
    rule = update_rule(config)
    profiled = ServedProfile(config, workdir, cluster)

    def updated(version: int) -> None:
        if show is not None:
            show({"updates": version})
        faults.at("update", version)
        profiled.at(version, server)

    try:
        server = ParameterServer(
            cluster.server_index,
            cluster.server_addresses,
            rule,
            signature=cluster_lib.run_signature(config_lib.comparable(config))
            | {"run": cluster_lib.identity(cluster, config.cluster.run_id, workdir)},
            folder=pathlib.Path(workdir) / "servers" / str(cluster.server_index),
            security=cluster.security,
            idle_seconds=config.cluster.connect_timeout_seconds,
            on_update=updated,
            drop_reply=lambda version: faults.asked("drop", version),
        )
    except OSError as e:
        raise UsageError(
            f"Server {cluster.server_index} cannot serve at {address}: {e}. Is another server running there, or one "
            "with the same --server_index?"
        ) from e
    if stop_signal is not None:
        stop_signal.hold()
    if threading.current_thread() is threading.main_thread():
        # The chief saves first, and then ends the servers; only without a run there is nobody to wait for.
        signal.signal(signal.SIGTERM, lambda *_: server.stop_if_idle())
    logging.info("Server %d of %d serves at %s.", cluster.server_index, len(cluster.server_addresses), address)
    try:
        ended = server.wait()
    except TimeoutError as e:
        raise PeerError(f"server {cluster.server_index} gives up: {e}") from e
    finally:
        profiled.close()
    if ended.code == 0:
        milliseconds = [1000 * s for s in server.update_seconds()] or [0.0]
        logging.info(
            "The run has ended; an update took %.2f ms (median).", sorted(milliseconds)[len(milliseconds) // 2]
        )
    return ended.code, ended.text
