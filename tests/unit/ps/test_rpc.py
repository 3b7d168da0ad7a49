"""Which addresses the service takes for this host's own. The service itself: `tests/contract/test_rpc.py`."""

from __future__ import annotations

import pytest

from jaxdist.ps import is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.1.1:1", "localhost:1", "[::1]:1"])
def test_loopback(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "host.example:1"])
def test_beyond_this_host(address):
    assert not is_loopback(address)
