"""Names and addresses that this host knows or does not, and can serve at or cannot."""

from __future__ import annotations

import socket

import pytest

from jaxdist.cluster import Cluster, reachable
from jaxdist.errors import UsageError


def test_what_can_be_is_said_in_words():
    assert reachable.check(Cluster()) == "one process"
    two = Cluster(process_id=1, num_processes=2, coordinator_address="127.0.0.1:1")
    assert reachable.check(two) == "process 1 of 2, on 127.0.0.1, process 0 at 127.0.0.1:1"
    servers = Cluster(server_addresses=("127.0.0.1:1", "[::1]:2"))
    assert reachable.check(servers) == "one process; servers at 127.0.0.1:1, [::1]:2"
    own = Cluster(role="server", server_addresses=("127.0.0.1:0",))
    assert reachable.check(own) == "server 0 of 1"


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (Cluster(process_id=1, num_processes=2, coordinator_address="no.invalid:1"), "does not know no.invalid"),
        (Cluster(server_addresses=("127.0.0.1:1", "no.invalid:1")), "does not know no.invalid"),
        (Cluster(num_processes=2, coordinator_address="192.0.2.1:1"), "192.0.2.1:1 cannot be served here"),
        (Cluster(role="server", server_addresses=("192.0.2.1:1",)), "192.0.2.1:1 cannot be served here"),
    ],
)
def test_what_cannot_be_is_refused(cluster, words):
    with pytest.raises(UsageError, match=words):
        reachable.check(cluster)


def test_a_port_that_somebody_has():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"{address} cannot be served here"):
            reachable.check(Cluster(num_processes=2, coordinator_address=address))
