"""The parameter server with real processes: transparency, resuming, and training at every staleness bound."""

from __future__ import annotations

import signal
import sys

import numpy as np
import pytest
from helpers.outcomes import final_state, reference_state
from helpers.processes import Run, finish, free_port, long, rows, start, wait_for_event, wait_for_update
from helpers.reference import assert_same

from jaxdist.state.position import size


@pytest.mark.parametrize(("workers", "servers"), [long(1, 1), long(2, 1), (3, 2), long(2, 3)])
def test_at_staleness_0_workers_equal_replicas(x64, tmp_path, workers, servers):
    summary = finish(tmp_path, workers, servers=servers, max_updates=20, strategy__max_staleness=0)
    assert_same(final_state(tmp_path), reference_state(20, replicas=workers), 1e-9)
    assert summary["staleness_histogram"] == [{"0": 20}] * workers
    assert summary["pushes_per_worker"] == [20] * workers and summary["updates"] == 20


@pytest.mark.long
def test_a_resnet_at_staleness_0(x64, tmp_path):
    model = {"model__name": "resnet", "model__depth": 8}
    finish(tmp_path, 2, servers=2, max_updates=12, strategy__max_staleness=0, **model)
    assert_same(final_state(tmp_path), reference_state(12, replicas=2, name="resnet", depth=8), 1e-9)


def test_one_asynchronous_worker_is_single(x64, tmp_path):
    finish(tmp_path, 1, servers=1, max_updates=20)
    assert_same(final_state(tmp_path), reference_state(20, replicas=1), 1e-9)


def test_a_worker_may_start_its_host_s_server(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "jaxdist.main", "--config=tests/helpers/tiny_config.py", f"--workdir={tmp_path}"]
    command += ["--config.strategy.name=parameter_server", "--config.max_updates=5"]
    command += ["--with_server", f"--server_addresses={address}", "--server_index=0"]
    p = start(command, {})
    output, _ = p.communicate(timeout=90)
    assert p.returncode == 0, output[-2000:]
    assert f"Server 0 of 1 serves at {address}" in output and "The run has ended" in output


@pytest.mark.long
def test_workers_of_several_devices(x64, tmp_path):
    env = {"JAX_NUM_CPU_DEVICES": "3"}
    finish(tmp_path, 2, servers=1, max_updates=10, strategy__max_staleness=0, env=env)
    assert_same(final_state(tmp_path), reference_state(10, replicas=6), 1e-9)


@pytest.mark.parametrize(("staleness", "overlap"), [long(-1, False), (3, True)])
def test_every_example_is_pushed_once(tmp_path, staleness, overlap):
    summary = finish(tmp_path, 3, servers=2, strategy__max_staleness=staleness, strategy__overlap=overlap)
    assert summary["examples_seen"] == 480
    assert sum(summary["pushes_per_worker"]) == summary["updates"] == 480 // 4
    if staleness > 0:
        assert max(summary["clock_lead_max"]) <= staleness
        assert max(int(s) for h in summary["staleness_histogram"] for s in h) <= 2 * (2 * staleness + 1) + overlap
    last = rows(tmp_path, "train")[max(rows(tmp_path, "train"))]
    assert {"staleness_mean", "staleness_max", "bytes_sent", "bytes_received", "wait_ms", "compute_ms"} <= last.keys()
    assert max(rows(tmp_path, "eval")) == 120


def test_dynamic_staleness_stays_inside_its_range(tmp_path):
    settings = {"strategy__staleness_policy": "dynamic", "strategy__staleness_range": (1, 6)}
    fault = "delay@process=1,seconds=0.05"
    summary = finish(tmp_path, 2, servers=1, fault=fault, num_epochs=4.0, **settings)
    assert 1 < summary["clock_lead_max"][0] <= 6
    assert summary["examples_seen"] == 960


@pytest.mark.parametrize("bound", [long(0), long(1), 3, long(10)])
def test_a_slow_worker_keeps_the_others_within_the_bound(tmp_path, bound):
    fault = "delay@process=1,seconds=0.05"
    summary = finish(tmp_path, 2, servers=1, fault=fault, num_epochs=4.0, strategy__max_staleness=bound)
    assert min(bound, 3) <= max(summary["clock_lead_max"]) <= bound
    assert summary["examples_seen"] == 960


@pytest.mark.long
def test_allreduce_resumes_under_the_parameter_server_and_back(x64, tmp_path):
    """At staleness 0 the chain of three is one run."""
    finish(tmp_path, 2, max_updates=6)
    finish(tmp_path, 2, servers=2, max_updates=13, strategy__max_staleness=0)
    finish(tmp_path, 2, max_updates=20)
    assert_same(final_state(tmp_path), reference_state(20, replicas=2), 1e-9)


@pytest.mark.parametrize("staleness", [long(0), -1])
def test_killed_whole_it_resumes_from_its_checkpoint(x64, tmp_path, staleness):
    settings = {"servers": 2, "checkpoint__every_updates": 7, "strategy__max_staleness": staleness}
    with Run(tmp_path, 2, **settings, fault="delay@seconds=0.05") as run:
        wait_for_event(tmp_path, "saved")
        for p in [*run.servers, *run.processes]:
            p.kill()
    stored = final_state(tmp_path)
    assert stored.updates >= 7
    assert stored.examples_seen == stored.updates * (12 if staleness == 0 else 6)
    summary = finish(tmp_path, 2, **settings)
    assert summary["examples_seen"] == 480
    if staleness == 0:
        assert_same(final_state(tmp_path), reference_state(40, replicas=2), 1e-9)


def test_sigterm_saves_what_is_claimed_as_not_done(tmp_path):
    with Run(tmp_path, 3, servers=1, num_epochs=200.0, fault="delay@seconds=0.05") as run:
        wait_for_update(tmp_path, 12)
        for p in [*run.processes, *run.servers]:
            p.send_signal(signal.SIGTERM)
        ended = run.wait(60)
    assert [e.code for e in ended] == [75] * 4, [e.output[-1500:] for e in ended]
    stored = final_state(tmp_path)
    assert size(stored.pending) > 0
    assert stored.examples_seen == 4 * stored.updates
    assert stored.position.next == stored.examples_seen + size(stored.pending)


@pytest.mark.long
def test_an_asynchronous_checkpoint_goes_on_under_allreduce_without_losing_examples(x64, tmp_path):
    with Run(tmp_path, 2, servers=1, fault="delay@seconds=0.05") as run:
        wait_for_update(tmp_path, 12)
        for p in run.processes:
            p.send_signal(signal.SIGTERM)
        run.wait(60)
    before = final_state(tmp_path)
    summary = finish(tmp_path, 2, num_epochs=2.0)
    after = final_state(tmp_path)
    assert (480 - before.examples_seen) // 12 == summary["updates"] - before.updates
    assert not after.pending and after.examples_seen == summary["examples_seen"]
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in after.params["stem"]["conv"].values())
