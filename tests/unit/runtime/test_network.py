"""The interfaces of this host, with addresses alone."""

from __future__ import annotations

import ipaddress

from jaxdist.runtime import network


def test_loopback_is_there_and_addresses_are_addresses():
    found = network.interfaces()
    every = [address for addresses in found.values() for address in addresses]
    assert "127.0.0.1" in every
    assert all(ipaddress.ip_address(address) for address in every)
