"""Where each process of a run is reached: what listens there, what is told to others, what gloo uses.

    process 0 at a name, Debian's /etc/hosts      process 1 on another host
      own name -> 127.0.1.1                         the name -> 10.0.0.1        "I reached process 0 at 10.0.0.1"
      own address by itself: 127.0.0.1              own address: 10.0.0.2, which leads there
                          gather: each its own, and where it reached process 0
      reached at 10.0.0.1                           reached at 10.0.0.2

A host's own name says little: it may be 127.0.1.1, unknown, or lead to a network from which nobody comes.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.cluster.detect import Cluster
from jaxdist.comm.addresses import is_literal, is_loopback, split
from jaxdist.errors import UsageError
from jaxdist.runtime import network


def own_host(cluster: Cluster, wanted: str = "") -> str:
    """The address of this host on the way to process 0, without brackets; of no use in a run of one process.

    Args:
      wanted: `cluster.address`: an address, name or interface of this host, in place of that.

    Raises:
      UsageError: there is no way, or `wanted` is not of this host.
    """
    if wanted:
        return _of_this_host(wanted)
    if not cluster.coordinator_address:
        return "127.0.0.1"
    host, port = split(cluster.coordinator_address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        family, kind, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        with socket.socket(family, kind) as s:
            s.connect(address)  # sends nothing
            return s.getsockname()[0]
    except OSError as e:
        raise UsageError(f"--coordinator_address={cluster.coordinator_address} leads nowhere from here: {e}.") from None


def _of_this_host(wanted: str) -> str:
    """The address that `cluster.address` means."""
    known = network.interfaces()
    if wanted in known:
        return min(known[wanted], key=lambda address: (":" in address, address.startswith("fe80")))
    every = [address for addresses in known.values() for address in addresses]
    try:
        asked = [wanted.strip("[]")] if is_literal(wanted) else [e[4][0] for e in socket.getaddrinfo(wanted, None)]
    except OSError:
        asked = []
    here = [address for address in asked if address in every]
    if here:
        return str(here[0])
    listed = "; ".join(f"{name} {', '.join(addresses)}" for name, addresses in known.items())
    raise UsageError(f"cluster.address={wanted!r} is no address, name or interface of this host, which has {listed}.")


def facts(cluster: Cluster, wanted: str) -> dict[str, Any]:
    """What this process says of where it is, for `agreed`.

    Raises:
      UsageError: as `own_host`.
    """
    host, port = split(cluster.coordinator_address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        reached = min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0]
    except OSError as e:
        raise UsageError(f"--coordinator_address={cluster.coordinator_address}: {host} is not known here: {e}.") from e
    return {"own": own_host(cluster, wanted), "reached": reached, "fixed": bool(wanted)}


def agreed(said: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where each process is reached by all others, by process id; `said`: everybody's `facts`.

    Raises:
      UsageError: some are on this host's loopback alone and others are not.
    """
    own = [one["own"] for one in said]
    elsewhere = [one["reached"] for one in said if one["own"] != own[0]]  # as other hosts know process 0
    chief = own[0] if said[0]["fixed"] or not elsewhere else elsewhere[0]
    found = [chief if one["own"] == own[0] and not one["fixed"] else one["own"] for one in said]
    inside = [i for i, host in enumerate(found) if is_loopback(host)]
    if inside and len(inside) < len(found):
        other = next(host for host in found if not is_loopback(host))
        raise UsageError(
            f"Process {inside[0]} is reached at {found[inside[0]]}, that is from its own host alone, and others are at "
            f"{other}: set cluster.address on its host."
        )
    return found
