"""The ports of a range, one after the other; what is taken is passed over, and a range without any is refused."""

from __future__ import annotations

import contextlib
import socket

import pytest
from free_ports import free_port

from jaxdist.comm.channel import ChannelListener
from jaxdist.comm.ports import Ports, must_be
from jaxdist.errors import UsageError


@pytest.mark.parametrize("text", ["", "7800-7899", "1-65535", "9-9"])
def test_ranges(text):
    assert must_be(text) == ""


@pytest.mark.parametrize("text", ["7800", "7899-7800", "0-9", "7800-70000", "a-b", "7800-", " 1-2"])
def test_what_is_no_range(text):
    assert must_be(text) == "FIRST-LAST, as in 7800-7899, from 1 to 65535"


def two_free_ports() -> int:
    """The first of two neighbours."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port


def test_everything_that_listens_stays_inside():
    first = two_free_ports()
    ports = Ports(f"{first}-{first + 1}")
    assert first in ports and first + 2 not in ports and 5 in Ports()
    with contextlib.closing(ChannelListener("t", 9, "127.0.0.1", ports)) as one:
        with contextlib.closing(ChannelListener("t", 9, "127.0.0.1", ports)) as other:
            assert (one.port, other.port) == (first, first + 1)
            with pytest.raises(UsageError, match=f"port_range={first}-{first + 1}: all 2 ports are taken .* a channel"):
                ChannelListener("t", 9, "127.0.0.1", ports)


def test_without_a_range_an_error_stays_what_it_is():
    def never(port: int) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        Ports().first(never, "nothing")
