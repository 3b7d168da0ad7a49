"""The parameter server with real processes: transparency, and training at every staleness bound.

Four examples a device and a push throughout: processes of different runs share their compiled programs.
"""

from __future__ import annotations

import json
import re

import pytest
from free_ports import free_port
from helpers.compiled import OPTIMIZED
from helpers.outcomes import assert_times_add_up, final_state, reference_state
from helpers.processes import Run, finish, long, main_command, rows, start, wait_for_server
from helpers.reference import assert_same


@pytest.mark.parametrize(("workers", "servers", "devices"), [long(1, 1, 1), long(2, 1, 3), (3, 2, 1), long(2, 3, 1)])
def test_at_staleness_0_workers_equal_replicas(x64, tmp_path, workers, servers, devices):
    env = {"JAX_NUM_CPU_DEVICES": str(devices)}
    batch = 4 * workers * devices
    settings = {"global_batch_size": batch, "max_updates": 20, "strategy__max_staleness": 0}
    summary = finish(tmp_path, workers, servers=servers, env=env, **settings)
    assert_same(final_state(tmp_path), reference_state(20, replicas=workers * devices, batch=batch), 1e-9)
    assert summary["staleness_histogram"] == [{"0": 20}] * workers
    assert summary["pushes_per_worker"] == [20] * workers and summary["updates"] == 20
    spent = summary["system"]  # of the workers; servers keep theirs in system/
    assert spent["processes"].keys() == {f"worker-{i}" for i in range(workers)} and len(spent["hosts"]) == 1
    assert spent["cluster"]["memory_bytes"]["max"] > 1e8 * workers
    assert {path.stem for path in (tmp_path / "system").iterdir()} >= {f"server-{j}" for j in range(servers)}


@pytest.mark.long
def test_a_resnet_at_staleness_0(x64, tmp_path):
    model = {"model__name": "resnet", "model__depth": 8}
    finish(tmp_path, 2, servers=2, max_updates=8, env=OPTIMIZED, strategy__max_staleness=0, **model)
    assert_same(final_state(tmp_path), reference_state(8, replicas=2, name="resnet", depth=8), 1e-9)


def test_one_asynchronous_worker_that_starts_its_host_s_server_is_single(x64, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    flags = ["--with_server", f"--server_addresses={address}", "--server_index=0"]
    settings = {"strategy__name": "parameter_server", "max_updates": 20, "global_batch_size": 4}
    p = start(main_command(tmp_path, *flags, **settings), {})
    output, _ = p.communicate(timeout=90)
    assert p.returncode == 0, output[-2000:]
    assert f"Server 0 of 1 serves at {address}" in output and "The run has ended" in output
    assert_same(final_state(tmp_path), reference_state(20, replicas=1, batch=4), 1e-9)


# A run with a slow worker and lost replies, under each bound.


@pytest.fixture(
    scope="module",
    params=[
        (3, 2, 3, True),
        *(long((3, 2, -1, False)), long((2, 1, 0, False)), long((2, 1, 1, False)), long((2, 1, 10, False))),
    ],
    ids=lambda given: "{} workers, {} servers, bound {}, overlap {}".format(*given),
)
def uneven(request, tmp_path_factory):
    """(workers, bound, overlap, run directory, summary)."""
    workers, servers, bound, overlap = request.param
    folder = tmp_path_factory.mktemp("uneven")
    fault = "delay@process=1,seconds=0.05;" + ";".join(f"drop@server=0,update={u}" for u in (5, 6, 20))
    settings = {"strategy__max_staleness": bound, "strategy__overlap": overlap, "strategy__lease_seconds": 3.0}
    settings["global_batch_size"] = 4 * workers
    return workers, bound, overlap, folder, finish(folder, workers, servers=servers, fault=fault, **settings)


def test_every_example_is_pushed_once_though_replies_are_lost(uneven):
    workers, bound, _, folder, summary = uneven
    assert summary["examples_seen"] == 480
    assert sum(summary["pushes_per_worker"]) == 480 // 4
    assert summary["updates"] == (480 // 4 if bound else 480 // 4 // workers)
    train, evaluations = rows(folder, "train"), rows(folder, "eval")
    measured = {"staleness_mean", "staleness_max", "bytes_sent", "bytes_received", "wait_ms", "compute_ms"}
    assert measured <= train[max(train)].keys()
    assert assert_times_add_up(folder)["wait_seconds"]["server"] > 0
    assert max(evaluations) == summary["updates"]


def test_a_slow_worker_keeps_the_others_within_the_bound(uneven):
    workers, bound, overlap, _, summary = uneven
    lead = max(summary["clock_lead_max"])
    staleness = max(int(s) for h in summary["staleness_histogram"] for s in h)
    if bound < 0:
        assert lead > 10, "nobody waits"
    else:
        assert min(bound, 3) <= lead <= bound
        assert staleness <= ((workers - 1) * (2 * bound + 1) + overlap if bound else 0)


# A run with an evaluator, under the dynamic policy.


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """(run directory, its end, the evaluator's end, the end of a second server 0 that was started meanwhile)."""
    folder = tmp_path_factory.mktemp("observed")
    settings = {"strategy__staleness_policy": "dynamic", "strategy__staleness_range": (1, 6)}
    settings |= {"num_epochs": 4.0, "global_batch_size": 8}
    with Run(folder, 2, servers=2, fault="delay@process=1,seconds=0.06", **settings) as run:
        command = [c for c in run.commands["server 0"] if not c.startswith(("--role", "--server_index"))]
        evaluator = start([*command, "--role=evaluator"], {})
        try:
            wait_for_server(run.addresses[0])  # not longer: the second must come while the run goes on
            second = start(run.commands["server 0"], {})
            refused, _ = second.communicate(timeout=60)
            assert run.servers[0].poll() is None
            ended = run.wait(120)
            evaluated, _ = evaluator.communicate(timeout=30)
        finally:
            evaluator.kill()
            evaluator.communicate()
    return folder, ended, (evaluator.returncode, evaluated), (second.returncode, refused)


def test_dynamic_staleness_stays_inside_its_range(observed):
    folder, ended, _, _ = observed
    assert [e.code for e in ended] == [0] * 4, [e.output[-1500:] for e in ended]
    summary = json.loads((folder / "summary.json").read_text())
    assert 1 < summary["clock_lead_max"][0] <= 6
    assert summary["examples_seen"] == 4 * 240


def test_an_evaluator_evaluates_versions_beside_the_training(observed):
    folder, _, (code, output), _ = observed
    assert code == 0, output[-1500:]
    found = rows(folder, "eval")
    versions = [int(v) for v in re.findall(r"Version (\d+):", output)]
    assert versions and set(versions) <= found.keys() and max(found) == 240


def test_two_servers_with_one_index_are_refused(observed):
    _, _, _, (code, output) = observed
    assert code == 2 and "cannot serve at" in output and "same --server_index" in output
