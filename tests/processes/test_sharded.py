"""State divided over real processes: exact, resumable, exchangeable with other strategies, refused where need be."""

from __future__ import annotations

import json
import math

import pytest
from helpers.compiled import OPTIMIZED
from helpers.outcomes import assert_resumes_exactly, final_state, reference_state, tiny_task
from helpers.processes import Run, finish, long, rows, wait_for_update
from helpers.reference import assert_same

from jaxdist.state import flatten

SHARDED = {"strategy__name": "model_parallel", "strategy__shard_threshold": 16}
MODEL = SHARDED | {"strategy__mesh": "model:2"}
FSDP = SHARDED | {"strategy__shard_params": "fsdp"}
ZERO1 = SHARDED | {"strategy__shard_params": "zero1"}


@pytest.mark.parametrize(
    ("n", "devices", "options"),
    [
        long(2, 1, FSDP),
        long(4, 1, SHARDED | {"strategy__mesh": "data:2,model:2"}),
        long(2, 2, SHARDED | {"strategy__mesh": "model:2,data:2"}),
        long(3, 1, FSDP),
        long(2, 2, ZERO1),
    ],
)
def test_processes_equal_the_single_device_run(x64, tmp_path, n, devices, options):
    env = {"JAX_NUM_CPU_DEVICES": str(devices)} if devices > 1 else {}
    summary = finish(tmp_path, n, max_updates=10, env=env, **options)
    assert_same(final_state(tmp_path), reference_state(10, replicas=1), 1e-9)
    assert 10 in rows(tmp_path, "eval") and summary["examples_seen"] == 120
    _check_what_a_run_says(summary, n, devices, options)


def _check_what_a_run_says(summary, n: int, devices: int, options, **model) -> None:
    assert summary["collectives_per_step"]["all-reduce"]["count"] > 0
    whole = 8 * summary["num_params"]
    if options.get("strategy__shard_params") == "fsdp":
        leaves = list(flatten(tiny_task(**model)[0].init().params).values())
        small = sum(leaf.nbytes for leaf in leaves if math.prod(leaf.shape) < FSDP["strategy__shard_threshold"])
        # Small tensors are on every device; padding is less than an element a tensor and device.
        most = (whole - small) / n + devices * (small + 8 * len(leaves))
        assert max(summary["param_bytes_per_process"] + summary["optimizer_bytes_per_process"]) <= most
        assert sum(summary["param_bytes_per_process"]) >= whole
    if "model" in options.get("strategy__mesh", "") and devices == 1:
        assert max(summary["param_bytes_per_process"]) < whole


@pytest.mark.long
@pytest.mark.parametrize("options", [FSDP, MODEL])
def test_killed_and_stopped_by_sigterm_it_equals_the_single_device_run(x64, tmp_path, options):
    state = assert_resumes_exactly(tmp_path, 2, sigterm=options is FSDP, **options)
    assert_same(state, reference_state(state.updates, replicas=1), 1e-9)
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert state.updates in rows(tmp_path / "whole", "eval") and summary["examples_seen"] == 12 * state.updates
    _check_what_a_run_says(summary, 2, 1, options)


@pytest.mark.parametrize(
    ("name", "depth", "options"),
    [long("densenet", 10, SHARDED | {"strategy__mesh": "data:2,model:2"}), long("resnet", 8, FSDP)],
)
def test_a_family_over_processes_of_two_devices(x64, tmp_path, name, depth, options):
    model = {"name": name, "depth": depth}
    settings = {"model__name": name, "model__depth": depth, "env": OPTIMIZED | {"JAX_NUM_CPU_DEVICES": "2"}}
    summary = finish(tmp_path, 2, max_updates=10, **settings, **options)
    assert_same(final_state(tmp_path), reference_state(10, replicas=1, **model), 1e-9)
    assert 10 in rows(tmp_path, "eval") and summary["examples_seen"] == 120
    _check_what_a_run_says(summary, 2, 2, options, **model)


@pytest.mark.long
def test_a_checkpoint_moves_between_strategies_and_meshes(x64, tmp_path):
    """All with BatchNorm over the global batch."""
    finish(tmp_path, 2, **MODEL, max_updates=5)
    finish(tmp_path, 2, **FSDP, max_updates=10)
    finish(tmp_path, 1, strategy__name="single", max_updates=15)
    pipeline = {"strategy__name": "pipeline", "strategy__num_microbatches": 1, "strategy__balance_by": "bytes"}
    finish(tmp_path, 2, **pipeline, max_updates=20)
    finish(tmp_path, 2, **ZERO1, max_updates=25)
    finish(tmp_path, 2, strategy__sync_batch_norm=True, max_updates=30)
    finish(tmp_path, 1, servers=1, strategy__max_staleness=0, max_updates=35)
    assert_same(final_state(tmp_path), reference_state(35, replicas=1), 1e-9)


def test_phases_of_a_switch(x64, tmp_path):
    schedule = "model_parallel(mesh=model:2):0.3,allreduce(sync_batch_norm=True):0.3,model_parallel(shard_params=fsdp)"
    finish(tmp_path, 2, strategy__name="switch", strategy__schedule=schedule, strategy__shard_threshold=16)
    assert_same(final_state(tmp_path), reference_state(40, replicas=1), 1e-9)


@pytest.mark.parametrize(("action", "victim"), [("kill", 1), long("stop", 1), long("kill", 0)])
def test_a_lost_peer_is_named_in_time(tmp_path, action, victim):
    with Run(tmp_path, 2, fault=f"{action}@process={victim},update=5", cluster__timeout_seconds=6.0, **FSDP) as run:
        wait_for_update(tmp_path, 3)
        run.loses(victim, action)


def test_a_mesh_that_does_not_fit_is_refused_on_all_processes(tmp_path):
    with Run(tmp_path, 2, **SHARDED, strategy__mesh="data:2,model:2") as run:
        for ended in run.wait():
            assert ended.code == 2, ended.output[-2000:]
            assert "2 x 2 = 4 devices, and there are 2" in ended.error
