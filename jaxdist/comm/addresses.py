"""Addresses as text, 'host:port' with IPv6 in brackets: taken apart, and where to listen for one."""

from __future__ import annotations

import ipaddress
import socket


def split(address: str) -> tuple[str, int]:
    """(host without brackets, port)."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join(host: str, port: int) -> str:
    """'host:port'; IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def is_literal(host: str) -> bool:
    """Whether a host is an address and no name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from itself alone, as far as its text says."""
    host = host.strip("[]")
    return host == "localhost" or (is_literal(host) and ipaddress.ip_address(host).is_loopback)


def where_to_listen(address: str) -> str:
    """For a server that others know by `address`.

    At an address: there. At a name: everywhere, since a host's own name may lead to 127.0.1.1, as Debian and Ubuntu set
    it up, or to a network from which nobody comes, while other hosts know it by another address.
    """
    host, port = split(address)
    if is_literal(host) or is_loopback(host):
        return address
    return join("::" if socket.has_dualstack_ipv6() else "0.0.0.0", port)
