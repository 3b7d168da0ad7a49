"""Whether this host can play its part in a cluster, as far as it can tell alone: starts nothing, asks nobody."""

from __future__ import annotations

import socket

from jaxdist.cluster.detect import Cluster
from jaxdist.cluster.hosts import own_host
from jaxdist.comm.addresses import split, where_to_listen
from jaxdist.errors import UsageError


def check(cluster: Cluster, address: str = "") -> str:
    """What was found, in words; `address`: `config.cluster.address`. Blocks for name servers.

    Raises:
      UsageError: a host's name is not known here, or an address that this process is to serve at cannot be had.
    """
    found = []
    if cluster.role == "worker" and cluster.num_processes > 1:
        coordinator = cluster.coordinator_address
        _look_up("--coordinator_address=", coordinator)
        if cluster.is_chief:
            _try_to_serve("--coordinator_address=", coordinator)
        here = own_host(cluster, address)
        found.append(f"process {cluster.process_id} of {cluster.num_processes}, on {here}, process 0 at {coordinator}")
    elif cluster.role == "worker":
        found.append("one process")
    for address in cluster.server_addresses:
        _look_up("--server_addresses: ", address)
    if cluster.role == "server":
        _try_to_serve("--server_addresses: ", cluster.server_addresses[cluster.server_index])
        found.append(f"server {cluster.server_index} of {len(cluster.server_addresses)}")
    elif cluster.server_addresses:
        found.append(f"servers at {', '.join(cluster.server_addresses)}")
    return "; ".join(found) or cluster.role


def _look_up(name: str, address: str) -> None:
    host, port = split(address)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as e:
        words = f"{name}{address}: this host does not know {host} ({e.strerror or e})"
        raise UsageError(f"{words}: give its address, or teach this host its name.") from e


def _try_to_serve(name: str, address: str) -> None:
    host, port = split(where_to_listen(address))
    family, kind, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        with socket.socket(family, kind) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(where)
            s.listen(1)
    except OSError as e:
        raise UsageError(
            f"{name}{address} cannot be served here ({e.strerror or e}): is it this host's, and is the port free?"
        ) from e
