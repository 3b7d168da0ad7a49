"""Two and three hosts, each with an /etc/hosts of its own: every strategy trains, to the bits of a run on one host.

Hosts are network namespaces (`tools/lab.py`); the processes are started by the commands of the pages, one on each host.
Where this machine allows no namespaces the tests are skipped.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers.outcomes import final_state
from helpers.processes import ROOT, environment, finish, main_command

from jaxdist.state import flatten

sys.path.insert(0, str(ROOT / "tools"))
import lab as laboratory

pytestmark = [pytest.mark.hosts, pytest.mark.long]

SHORT = {"num_epochs": 0.5, "cluster__connect_timeout_seconds": 60.0}
STRATEGIES: dict[str, dict[str, Any]] = {
    "allreduce": {},
    "fsdp": {
        "strategy__name": "model_parallel",
        "strategy__shard_params": "fsdp",
        "strategy__shard_threshold": 16,
    },
    "pipeline": {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"},
    "rounds": {"strategy__name": "parameter_server", "strategy__max_staleness": 0},
    "switch": {
        "strategy__name": "switch",
        "strategy__schedule": "allreduce:0.5,parameter_server(max_staleness=1):0.25,allreduce",
    },
}
WITH_SERVER = ("rounds", "switch")
EXACT = ("allreduce", "fsdp", "pipeline", "rounds")

SITUATIONS: dict[str, tuple[bool, dict[str, Any]]] = {  # whether the coordinator is given by name; the laboratory
    "Debian's names, coordinator by name": (True, {"names": "debian"}),
    "Debian's names, coordinator by address, IPv6": (False, {"names": "debian", "ipv6": True}),
    "no names at all": (False, {"names": "none"}),
    "a second network listed first": (True, {"names": "good", "networks": 2}),
}


@contextlib.contextmanager
def lab_of(hosts: int, **settings: Any):
    """A laboratory; skips the test where there can be none."""
    made = laboratory.Lab(hosts, **settings)
    try:
        made.__enter__()
    except laboratory.NoLab as e:
        pytest.skip(str(e))
    with contextlib.closing(made):
        yield made


def train(lab: laboratory.Lab, workdir, strategy: str, port: int, *, by_name: bool, **changes: Any) -> list:
    """Starts a run with a worker on each host, and a server on the first where it needs one."""
    literal = f"[{lab.addresses[0]}]" if ":" in lab.addresses[0] else lab.addresses[0]
    first = lab.names[0] if by_name else literal
    flags = [f"--num_processes={len(lab.names)}", f"--coordinator_address={first}:{port}"]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    options |= {"cwd": ROOT, "env": environment() | {"JAXDIST_TOKEN": "a secret of these tests"}}
    settings = STRATEGIES[strategy] | SHORT | changes
    started = []
    if strategy in WITH_SERVER:
        flags.append(f"--server_addresses={first}:{port + 1}")
        server = main_command(workdir, *flags, "--role=server", "--server_index=0", **settings)
        started.append(lab.popen(0, server, **options))
    for host in range(len(lab.names)):
        started.append(lab.popen(host, main_command(workdir, *flags, f"--process_id={host}", **settings), **options))
    return started


def ended(processes: list, seconds: float = 180) -> list[tuple[int, str]]:
    said = [process.communicate(timeout=seconds)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


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
            strategy: train(lab, tmp_path / strategy, strategy, 9000 + 10 * number, by_name=by_name)
            for number, strategy in enumerate(STRATEGIES)
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
            train(lab, tmp_path / strategy, strategy, 9000 + 10 * number, by_name=True)
            for number, strategy in enumerate(("allreduce", "rounds"))
        ]
        for processes in running:
            for code, said in ended(processes):
                assert code == 0, said[-3000:]


def test_an_address_of_its_own_choice_and_one_of_another_host(tmp_path):
    """`cluster.address`: an interface is fine; what is not of this host is refused, with what there is."""
    with lab_of(2, names="debian", networks=2) as lab:
        good = train(lab, tmp_path / "good", "allreduce", 9000, by_name=False, cluster__address="eth0")
        bad = train(lab, tmp_path / "bad", "allreduce", 9010, by_name=False, cluster__address=lab.addresses[1])
        for code, said in ended(good):
            assert code == 0, said[-3000:]
        refused, other = ended(bad)
    assert refused[0] == 2 and f"cluster.address='{lab.addresses[1]}' is no address" in refused[1], refused
    assert f"eth0 {lab.addresses[0]}" in refused[1]
    assert other[0] == 2, other
