"""Two and three hosts, each with an /etc/hosts of its own: every strategy trains, to the bits of a run on one host.

Hosts are network namespaces (`tools/lab.py`); the processes are started by the commands of the pages, one on each host.
Where this machine allows no namespaces the tests are skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.hosts import STRATEGIES, WITH_SERVER, ended, lab_of, train
from helpers.outcomes import final_state
from helpers.processes import finish

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
    for strategy, wanted in on_one_host.items():
        arrays = flatten(final_state(tmp_path / strategy).arrays())
        assert arrays.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(arrays[name], wanted[name], err_msg=f"{strategy}: {name}")


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
