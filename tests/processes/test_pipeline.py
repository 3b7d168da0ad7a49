"""Pipelines over real processes: exact, resumable, exchangeable with other strategies, and never hanging."""

from __future__ import annotations

import json

import pytest
from helpers.compiled import OPTIMIZED
from helpers.outcomes import assert_resumes_exactly, final_state, reference_state
from helpers.processes import Run, finish, long, rows, wait_for_update
from helpers.reference import assert_same

PIPELINE = {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"}


def test_killed_and_stopped_by_sigterm_it_equals_the_single_device_run(x64, tmp_path):
    state = assert_resumes_exactly(tmp_path, 2, sigterm=True, **PIPELINE)
    assert_same(state, reference_state(state.updates, replicas=2), 1e-9)
    _check_what_a_run_says(tmp_path / "whole", state)


def _check_what_a_run_says(workdir, state) -> None:
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["replicas"], summary["num_microbatches"]) == (1, 2)
    assert summary["examples_seen"] == 12 * state.updates and state.updates in rows(workdir, "eval")
    assert len(summary["balance"]) == 2 and len(summary["param_bytes_per_process"]) == 2
    assert sum(summary["param_bytes_per_process"]) == 8 * summary["num_params"]
    last = list(rows(workdir, "train").values())[-1]
    assert summary["wait_seconds"]["network"] > 0
    assert 0 < last["bubble"] < 1 and len(last["stage_ms"]) == 2 and last["bytes_sent"] > 0
    first, second = summary["timeline"]
    assert (first["stage"], second["stage"]) == (0, 1)
    assert [a for a, *_ in first["spans"]] == ["F0", "F1", "B1", "B0"]
    assert first["spans"][0][2] <= second["spans"][0][1]


@pytest.mark.long
def test_killed_and_resumed_is_bit_identical(x64, tmp_path):
    state = assert_resumes_exactly(tmp_path, 2, **PIPELINE, strategy__pipeline_schedule="1f1b", strategy__remat=True)
    assert_same(state, reference_state(state.updates, replicas=2), 1e-9)


@pytest.mark.parametrize(
    ("n", "options"),
    [
        long(4, {"num_stages": 2, "pipeline_schedule": "1f1b"}),
        long(4, {"num_stages": 4, "num_microbatches": 4}),
        long(2, {"num_stages": 1, "replicas": 2}),
        long(2, {"num_stages": 2, "replicas": 2, "num_microbatches": 3}),
    ],
)
def test_stages_equal_the_single_device_run(x64, tmp_path, n, options):
    settings = PIPELINE | {f"strategy__{key}": value for key, value in options.items()}
    env = {"JAX_NUM_CPU_DEVICES": "2"} if options["num_stages"] * options.get("replicas", 1) > n else {}
    summary = finish(tmp_path, n, max_updates=10, env=env, **settings)
    replicas = summary["replicas"] * summary["num_microbatches"]
    assert_same(final_state(tmp_path), reference_state(10, replicas=replicas), 1e-9)
    assert 10 in rows(tmp_path, "eval")
    assert summary["examples_seen"] == 120


@pytest.mark.parametrize(
    ("name", "depth", "options"),
    [long("densenet", 10, {"num_stages": 2}), long("resnet", 8, {"num_stages": 4, "pipeline_schedule": "1f1b"})],
)
def test_a_family_over_processes(x64, tmp_path, name, depth, options):
    settings = PIPELINE | {f"strategy__{key}": value for key, value in options.items()}
    env = OPTIMIZED | {"JAX_NUM_CPU_DEVICES": str(options["num_stages"] // 2)}
    finish(tmp_path, 2, max_updates=10, model__name=name, model__depth=depth, env=env, **settings)
    assert_same(final_state(tmp_path), reference_state(10, replicas=2, name=name, depth=depth), 1e-9)


@pytest.mark.long
def test_blocks_without_parameters_or_statistics(tmp_path):
    summary = finish(tmp_path, 2, **PIPELINE, model__name="cnn", model__dropout=0.0, max_updates=4)
    assert summary["updates"] == 4


@pytest.mark.long
def test_a_checkpoint_moves_between_strategies(x64, tmp_path):
    """Microbatches of 6 examples throughout: replicas of allreduce, parts of single, rounds of the servers."""
    finish(tmp_path, 2, **PIPELINE, max_updates=5)
    finish(tmp_path, 2, max_updates=10)
    finish(tmp_path, 2, **PIPELINE, strategy__pipeline_schedule="1f1b", strategy__balance="(3,1)", max_updates=15)
    finish(tmp_path, 1, strategy__name="single", strategy__accumulate=2, max_updates=20)
    finish(tmp_path, 2, servers=1, strategy__max_staleness=0, max_updates=25)
    finish(tmp_path, 1, **PIPELINE, strategy__num_stages=3, max_updates=30)
    assert_same(final_state(tmp_path), reference_state(30, replicas=2), 1e-9)


@pytest.mark.long
def test_phases_of_a_switch(x64, tmp_path):
    """With collectives and with servers in between, and what is divided before servers."""
    pipeline, servers = "pipeline(num_microbatches=2,balance_by=bytes)", "parameter_server(max_staleness=0)"
    fsdp = "model_parallel(shard_params=fsdp,sync_batch_norm=False)"
    schedule = f"{pipeline}:0.2,allreduce:0.1,pipeline(num_microbatches=2):0.2,{servers}:0.1,{pipeline}:0.1,{fsdp}:0.1,"
    settings = {"strategy__name": "switch", "strategy__schedule": schedule + servers, "strategy__balance_by": "bytes"}
    summary = finish(tmp_path, 2, servers=1, **settings)
    assert summary["examples_seen"] == 480
    assert_same(final_state(tmp_path), reference_state(40, replicas=2), 1e-9)


@pytest.mark.parametrize(
    ("victim", "action"),
    [long(0, "kill"), (1, "stop"), long(0, "stop"), long(2, "raise")],
)
def test_a_lost_stage_is_named_in_time(tmp_path, victim, action):
    settings = PIPELINE | {"cluster__timeout_seconds": 6.0, "strategy__num_microbatches": 4}
    with Run(tmp_path, 3, fault=f"{action}@process={victim},update=5", **settings) as run:
        wait_for_update(tmp_path, 3)
        run.loses(victim, action)


def test_what_cannot_be_dealt_out_is_refused_on_all_processes(tmp_path):
    with Run(tmp_path, 3, **PIPELINE, strategy__num_stages=2) as run:
        for ended in run.wait():
            assert ended.code == 2, ended.output[-2000:]
            assert "cannot be dealt out to 3 process" in ended.error
