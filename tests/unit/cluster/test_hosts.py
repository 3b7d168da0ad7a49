"""Where each process is reached, from what everybody says of itself; real hosts: `hosts/`."""

from __future__ import annotations

import pytest

from jaxdist.cluster import Cluster, hosts
from jaxdist.errors import UsageError


def said(own: str, reached: str, fixed: bool = False) -> dict:
    return {"own": own, "reached": reached, "fixed": fixed}


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ([said("127.0.0.1", "127.0.0.1")] * 2, ["127.0.0.1"] * 2),  # one host
        ([said("10.0.0.1", "10.0.0.1"), said("10.0.0.2", "10.0.0.1")], ["10.0.0.1", "10.0.0.2"]),
        # Debian's names: process 0 and its neighbour see loopback; the other host knows better.
        ([said("127.0.0.1", "127.0.1.1")] * 2 + [said("10.0.0.2", "10.0.0.1")], ["10.0.0.1", "10.0.0.1", "10.0.0.2"]),
        # Its own name leads to another network.
        ([said("192.168.7.1", "192.168.7.1"), said("10.0.0.2", "10.0.0.1")], ["10.0.0.1", "10.0.0.2"]),
        ([said("fd77::1", "fd77::1"), said("fd77::2", "fd77::1")], ["fd77::1", "fd77::2"]),
        # What the user says is so.
        ([said("10.9.0.1", "10.0.0.1", True), said("10.0.0.2", "10.0.0.1")], ["10.9.0.1", "10.0.0.2"]),
        ([said("10.0.0.1", "10.0.0.1"), said("10.9.0.2", "10.0.0.1", True)], ["10.0.0.1", "10.9.0.2"]),
    ],
)
def test_process_0_is_where_other_hosts_reach_it(facts, wanted):
    assert hosts.agreed(facts) == wanted


def test_loopback_beside_other_hosts_is_refused():
    facts = [said("127.0.0.1", "127.0.0.1", True), said("10.0.0.2", "10.0.0.1")]
    with pytest.raises(UsageError, match=r"Process 0 is reached at 127\.0\.0\.1, that is from its own host alone"):
        hosts.agreed(facts)


def test_the_address_that_leads_to_process_0():
    assert hosts.own_host(Cluster()) == "127.0.0.1"
    there = Cluster(process_id=1, num_processes=2, coordinator_address="127.0.0.1:9")
    assert hosts.own_host(there) == "127.0.0.1"
    assert hosts.facts(there, "") == said("127.0.0.1", "127.0.0.1")
    nowhere = Cluster(process_id=1, num_processes=2, coordinator_address="no.invalid:9")
    with pytest.raises(UsageError, match="leads nowhere from here"):
        hosts.own_host(nowhere)
    with pytest.raises(UsageError, match=r"no\.invalid is not known here"):
        hosts.facts(nowhere, "lo")


def test_an_address_a_name_or_an_interface_of_this_host():
    assert hosts.own_host(Cluster(), "lo") == "127.0.0.1"
    assert hosts.own_host(Cluster(), "127.0.0.1") == "127.0.0.1"
    assert hosts.own_host(Cluster(), "localhost") in ("127.0.0.1", "::1")
    for wanted in ("192.0.2.1", "eth77", "no.invalid"):
        with pytest.raises(UsageError, match=f"cluster.address='{wanted}' is no address, name or interface.*127.0.0.1"):
            hosts.own_host(Cluster(), wanted)
