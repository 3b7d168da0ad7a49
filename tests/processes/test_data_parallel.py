"""Real processes over loopback: transparency, exact resume, lost and stopped peers, SIGTERM."""

from __future__ import annotations

import signal
import subprocess

import pytest
from helpers.outcomes import assert_resumes_exactly, assert_sigterm_saves, final_state, reference_state
from helpers.processes import Run, finish, long, rows, wait_for_update
from helpers.reference import assert_same


@pytest.mark.parametrize(
    ("n", "spmd"),
    [(3, "shard_map"), long(2, "jit"), long(2, "pmap"), long(2, "shard_map"), long(3, "jit"), long(3, "pmap")],
)
def test_processes_equal_the_single_device_run(x64, tmp_path, n, spmd):
    finish(tmp_path, n, max_updates=20, strategy__spmd=spmd)
    assert_same(final_state(tmp_path), reference_state(20, replicas=1 if spmd == "jit" else n), 1e-9)


@pytest.mark.parametrize(("n", "spmd"), [long(3, "shard_map"), long(2, "jit"), long(2, "pmap")])
def test_a_resnet_over_processes(x64, tmp_path, n, spmd):
    finish(tmp_path, n, max_updates=20, model__name="resnet", model__depth=8, strategy__spmd=spmd)
    replicas = 1 if spmd == "jit" else n
    assert_same(final_state(tmp_path), reference_state(20, replicas=replicas, name="resnet", depth=8), 1e-9)


@pytest.mark.long
def test_processes_of_several_devices_each(x64, tmp_path):
    finish(tmp_path, 2, max_updates=10, env={"JAX_NUM_CPU_DEVICES": "3"})
    assert_same(final_state(tmp_path), reference_state(10, replicas=6), 1e-9)


@pytest.mark.parametrize("n", [long(1), 2])
def test_killed_and_resumed_is_bit_identical(tmp_path, n):
    assert_resumes_exactly(tmp_path, n, checkpoint__every_epochs=0.0)


@pytest.mark.long
def test_resumes_with_other_processes_and_another_spelling(tmp_path):
    finish(tmp_path, 2, max_updates=20)
    before = rows(tmp_path, "eval")[20]
    finish(tmp_path, 3, max_updates=20, strategy__spmd="jit")  # nothing left to train
    finish(tmp_path, 3, max_updates=24, strategy__spmd="jit")
    after = rows(tmp_path, "eval")
    assert after[20] == before and 24 in after
    finish(tmp_path, 1, max_updates=30, strategy__name="single")
    assert 30 in rows(tmp_path, "eval")


@pytest.mark.parametrize(
    ("victim", "action"), [long(1, "kill"), (0, "kill"), (1, "stop"), long(0, "stop"), long(2, "raise")]
)
def test_a_lost_peer_is_named_in_time(tmp_path, victim, action):
    fault = f"{action}@process={victim},update=5"
    with Run(tmp_path, 3, fault=fault, cluster__timeout_seconds=6.0) as run:
        wait_for_update(tmp_path, 3)
        run.loses(victim, action)


def test_sigterm_to_one_process_saves_one_common_update(tmp_path):
    assert_sigterm_saves(tmp_path, 3, fault="delay@process=2,seconds=0.05")


@pytest.mark.long
def test_a_warm_start_compiles_nothing_on_any_process(tmp_path):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    cold = finish(tmp_path / "cold", 2, max_updates=3, env=cache)
    warm = finish(tmp_path / "warm", 2, max_updates=3, env=cache)
    assert min(cold["programs_compiled"]) > 0
    assert warm["programs_compiled"] == [0, 0]


def test_the_launcher_runs_and_reports_the_first_failure(tmp_path):
    import os
    import sys

    from helpers.processes import ROOT

    command = [sys.executable, "tools/launch.py", "--num_workers=2", "--", "--config=tests/helpers/tiny_config.py"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    good = subprocess.run(
        [*command, f"--workdir={tmp_path / 'good'}", "--config.max_updates=3"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert good.returncode == 0, good.stdout + good.stderr
    assert "[worker 0] Validation accuracy" in good.stdout
    bad = subprocess.run(
        [*command, f"--workdir={tmp_path / 'bad'}"],
        cwd=ROOT, env=env | {"JAXDIST_FAULT": "kill@process=1,update=3"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert bad.returncode == 128 + signal.SIGKILL
    assert bad.stderr.splitlines()[-1].startswith("worker 1 was ended by SIGKILL")


@pytest.mark.long
def test_processes_may_take_unequally_long_to_compile(tmp_path):
    """Longer than the 30 s that gloo's members wait for each other."""
    finish(tmp_path, 2, fault="delay@process=1,point=compile,seconds=40", max_updates=3)
