"""The addresses of this host."""

from __future__ import annotations

import socket

import psutil


def interfaces() -> dict[str, list[str]]:
    """{interface: its IPv4 and IPv6 addresses, without scopes}; loopback too."""
    found: dict[str, list[str]] = {}
    for name, addresses in psutil.net_if_addrs().items():
        kept = [a.address.partition("%")[0] for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6)]
        if kept:
            found[name] = kept
    return found
