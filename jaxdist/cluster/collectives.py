"""JAX's runtime for collectives between processes: started, connected, ended. Arrays on devices do not outlive it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pathlib
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxdist.cluster.detect import Cluster
from jaxdist.comm.addresses import join, split
from jaxdist.comm.ports import Ports


def start(
    cluster: Cluster, settings: Mapping[str, Any], host: str, ports: Ports, from_chief: Callable[[str], str]
) -> None:
    """Collective: JAX sees all processes' devices from now on. Blocks until all have come.

    Args:
      settings: `config.cluster`.
      host: where the other processes reach this one.
      ports: where it may listen; gloo is not told.
      from_chief: collective: process 0's text, on all.
    """
    import jax
    from jax.extend.backend import clear_backends

    clear_backends()  # those of this process alone, where it has used some
    address = from_chief(join(host, ports.first(_free_port, "JAX's service")) if cluster.is_chief else "")
    # Two things of JAX's that would race with ours: its own SIGTERM handler, and its heartbeats, which abort the
    # process without a name for what went wrong. They stay as the last resort.
    jax.config.update("jax_enable_preemption_service", False)
    with _without_proxies():
        jax.distributed.initialize(
            address,
            cluster.num_processes,
            cluster.process_id,
            initialization_timeout=int(settings["connect_timeout_seconds"]),
            heartbeat_timeout_seconds=int(max(100, 3 * settings["timeout_seconds"])),
        )
    if cluster.is_chief:
        _be_patient(split(address)[1], settings["timeout_seconds"])
    with _gloo_listens_at(host):
        connect_devices()


def _be_patient(port: int, seconds: float) -> None:
    """Lets connections to a port of this process wait so long for what was sent to arrive.

    JAX's service is a gRPC server, and by itself gives a connection up after 20 s. That is soon, where a link was down
    for 13 s and TCP waits for as long again; and a client whose connection is reset aborts its process, in C++. JAX has
    no setting for it.
    """
    for entry in pathlib.Path("/proc/self/fd").glob("*") if hasattr(socket, "TCP_USER_TIMEOUT") else ():
        with contextlib.suppress(OSError):
            if not os.readlink(entry).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                of_tcp = (
                    connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM
                )
                if of_tcp and connection.getsockname()[1] == port:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))


@contextlib.contextmanager
def _gloo_listens_at(host: str) -> Iterator[None]:
    """While JAX makes its client for CPUs: gloo listens at this address of this host. By itself it takes the one that
    the host's own name leads to: 127.0.1.1 as Debian sets it up, another network, or none.

    Not a public part of JAX: `xla_bridge.make_cpu_client` calls this function in JAX 0.10.2.
    """
    from jax._src import xla_bridge

    module = xla_bridge._jax
    made = module.make_gloo_tcp_collectives
    module.make_gloo_tcp_collectives = functools.partial(made, hostname=host)
    try:
        yield
    finally:
        module.make_gloo_tcp_collectives = made


@contextlib.contextmanager
def _without_proxies() -> Iterator[None]:
    """JAX's runtime connects by gRPC, which takes a web proxy from these variables; JAX has no setting for it."""
    names = [name for name in os.environ if name.lower() in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy")]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


def connect_devices() -> None:
    """Collective: one tiny sum over all devices, while all processes are at the same place. Blocks for it.

    The first collective over a set of devices connects them, and gloo's members wait 30 seconds for each other, which
    no setting changes. Processes that compile their first step may differ by more than that.
    """
    import jax
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    ones = jax.make_array_from_callback((mesh.size,), NamedSharding(mesh, P("all")), lambda index: np.ones(1, np.int32))
    total = jax.shard_map(lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=P("all"), out_specs=P())
    jax.block_until_ready(jax.jit(total)(ones))


def stop(meet: Callable[[], object]) -> None:
    """Collective: JAX sees this process's devices alone from now on. Blocks until all have come.

    `jax.process_count()` stays what it was on the processes other than 0: ask `Cluster` for it.

    Args:
      meet: as of `_shut_down`.
    """
    from jax.extend.backend import clear_backends

    _shut_down(meet)
    clear_backends()


def stop_at_the_end(meet: Callable[[], object]) -> None:
    """Collective: ends the runtime, where it was started, as the last thing that a process does with JAX.

    Args:
      meet: as of `_shut_down`; called in any case.
    """
    import jax

    if jax.distributed.is_initialized():
        _shut_down(meet)
        atexit.unregister(_leave)
    else:
        meet()


def _shut_down(meet: Callable[[], object]) -> None:
    """Ends JAX's client on each process, then its service on process 0.

    Not a public part of JAX, whose own `shutdown` does both at once: where a link is down just then, process 0 is
    through and away before another one has its answer, and the other's client aborts the process in C++.

    Args:
      meet: collective: returns on process 0 when all others have called it. A process that has not got so far is not
        through with its client.
    """
    import jax
    from jax._src.distributed import global_state

    if global_state.client is not None:
        global_state.client.shutdown()
        global_state.client = None
    meet()
    jax.distributed.shutdown()


def exit_without_shutdown(code: int) -> None:
    """Where the runtime was started: this process ends without JAX's own clean-up, with that exit code, because its run
    has failed. JAX shuts the runtime down at exit and aborts in C++ (exit code 134) where other processes are gone.

    A later run of this process that ends well, and with it the runtime, takes this back.
    """
    import jax

    if jax.distributed.is_initialized():
        atexit.unregister(_leave)
        atexit.register(_leave, code)  # after JAX's, so before it when the interpreter ends


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _free_port(wanted: int) -> int:
    with socket.socket() as s:
        s.bind(("", wanted))
        return s.getsockname()[1]
