"""How long calls may take, and by which connections they go; `contract/` has calls that are sent again.

Four workers with the CNN of `tools/bench.py` over a server's link of 10 Mbit/s, whose updates take half a minute:
`experiments/results/links.md`.
"""

from __future__ import annotations

import numpy as np
import psutil
from helpers.servers import Servers
from helpers.waiting import wait_until

from jaxdist.ps import calls, wire


def test_calls_have_the_time_that_their_bytes_take_on_a_slow_link():
    data = np.zeros(2**20, np.uint8)
    assert calls.size_of("Heartbeat", b"") == 0 and calls.size_of("Push", data) == 2**20
    assert calls.size_of("PushPull", data) == 2**20 + wire.CHUNK and calls.size_of("Pull", b"") == wire.CHUNK
    assert calls.seconds_for(0) == calls.CALL_SECONDS
    four_workers = 4 * 4_799_528 * 8 / 10e6  # seconds each way over 10 Mbit/s
    assert calls.seconds_for(calls.size_of("PushPull", data)) > 2 * four_workers


def test_signs_of_life_do_not_wait_behind_bulk_data(tmp_path):
    """They have a connection of their own."""
    with Servers(tmp_path) as servers:
        servers.begin()
        port = int(servers.addresses[0].rpartition(":")[2])

        def connections() -> int:
            found = psutil.Process().net_connections("tcp")
            return sum(c.status == psutil.CONN_ESTABLISHED and bool(c.raddr) and c.raddr.port == port for c in found)

        wait_until(lambda: connections() == 2, "two connections of one client", 20)
