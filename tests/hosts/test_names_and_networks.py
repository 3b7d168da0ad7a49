"""Two and three hosts, each with an /etc/hosts of its own: every strategy trains, to the bits of a run on one host.

Hosts are network namespaces (`tools/lab.py`); the processes are started by the commands of the pages, one on each host.
Where this machine allows no namespaces the tests are skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.certificates import issued, variables
from helpers.hosts import STRATEGIES, WITH_SERVER, ended, lab_of, train
from helpers.outcomes import final_state
from helpers.processes import finish, wait_for_update

from jaxdist.state import flatten

pytestmark = [pytest.mark.hosts, pytest.mark.long]

SHORT = {"num_epochs": 0.5}
EXACT = ("allreduce", "fsdp", "pipeline", "rounds")

SITUATIONS: dict[str, tuple[bool, dict[str, Any]]] = {  # whether the coordinator is given by name; the laboratory
    "Debian's names, coordinator by name": (True, {"names": "debian"}),
    "Debian's names, coordinator by address, IPv6": (False, {"names": "debian", "ipv6": True}),
    "no names at all": (False, {"names": "none"}),
    "a second network listed first": (True, {"names": "good", "networks": 2}),
}


@pytest.fixture(scope="module")
def on_one_host(tmp_path_factory):
    """The same runs of two processes over loopback: {strategy: arrays of the last checkpoint}."""
    found = {}
    for strategy in EXACT:
        folder = tmp_path_factory.mktemp(strategy)
        servers = {"servers": 1} if strategy in WITH_SERVER else {}
        finish(folder, 2, **STRATEGIES[strategy] | SHORT | servers)
        found[strategy] = flatten(final_state(folder).arrays())
    return found


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_strategy_trains_as_on_one_host(tmp_path, on_one_host, situation):
    by_name, settings = SITUATIONS[situation]
    with lab_of(2, **settings) as lab:
        running = {
            strategy: train(lab, tmp_path / strategy, strategy, 9000 + 10 * number, by_name=by_name, **SHORT)
            for number, strategy in enumerate((*EXACT, "switch"))
        }
        for strategy, processes in running.items():
            for code, said in ended(processes):
                assert code == 0, (strategy, said[-3000:])
    assert_equal(tmp_path, on_one_host)


def assert_equal(place, on_one_host):
    for strategy, wanted in on_one_host.items():
        arrays = flatten(final_state(place / strategy).arrays())
        assert arrays.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(arrays[name], wanted[name], err_msg=f"{strategy}: {name}")


def test_encrypted_and_inside_a_range_of_ports(tmp_path, on_one_host):
    """With a token and certificates of the hosts; what listens stays inside, but gloo, which cannot be told."""
    ports, slowly = "9000-9029", "delay@process=0,seconds=0.2"
    with lab_of(2, names="debian") as lab:
        hosts = zip(lab.names, lab.addresses, strict=True)
        environs = [variables(issued(*host), tmp_path / "secrets" / host[0]) for host in hosts]
        common = SHORT | {"environs": environs, "by_name": True}
        running = {}
        for number, strategy in enumerate(("pipeline", "rounds")):
            options = common | {"fault": slowly, "cluster__port_range": ports}
            running[strategy] = train(lab, tmp_path / strategy, strategy, 9000 + 2 * number, **options)
        for strategy in running:
            wait_for_update(tmp_path / strategy, 1)
        for host in range(2):
            found = listening(lab, host)
            assert found and found <= set(range(9000, 9030)), found
        running |= {
            strategy: train(lab, tmp_path / strategy, strategy, 9100 + number, **common)
            for number, strategy in enumerate(("allreduce", "fsdp"))
        }
        for strategy, processes in running.items():
            for code, said in ended(processes):
                assert code == 0, (strategy, said[-3000:])
    assert_equal(tmp_path, on_one_host)


def listening(lab, host: int) -> set[int]:
    """Ports at which something listens on a host."""
    lines = lab.run(host, ["cat", "/proc/net/tcp", "/proc/net/tcp6"]).splitlines()
    rows = [line.split() for line in lines if line.split()[0].endswith(":")]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


def test_three_hosts(tmp_path):
    with lab_of(3, names="debian") as lab:
        running = [
            train(lab, tmp_path / strategy, strategy, 9000 + 10 * number, by_name=True, **SHORT)
            for number, strategy in enumerate(("allreduce", "rounds"))
        ]
        for processes in running:
            for code, said in ended(processes):
                assert code == 0, said[-3000:]


def test_an_address_of_its_own_choice_and_one_of_another_host(tmp_path):
    """`cluster.address`: an interface is fine; what is not of this host is refused, with what there is."""
    with lab_of(2, names="debian", networks=2) as lab:
        good = train(lab, tmp_path / "good", "allreduce", 9000, cluster__address="eth0", **SHORT)
        bad = train(lab, tmp_path / "bad", "allreduce", 9010, cluster__address=lab.addresses[1], **SHORT)
        for code, said in ended(good):
            assert code == 0, said[-3000:]
        refused, other = ended(bad)
    assert refused[0] == 2 and f"cluster.address='{lab.addresses[1]}' is no address" in refused[1], refused
    assert f"eth0 {lab.addresses[0]}" in refused[1]
    assert other[0] == 2, other
