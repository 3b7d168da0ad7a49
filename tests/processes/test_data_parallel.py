"""Data parallelism over real processes: transparency, exact resume, lost and stopped peers, SIGTERM, warm starts."""

from __future__ import annotations

import pytest
from helpers.compiled import OPTIMIZED
from helpers.outcomes import assert_resumes_exactly, final_state, reference_state
from helpers.processes import Run, finish, long, rows, wait_for_update
from helpers.reference import assert_same


def test_killed_and_stopped_by_sigterm_it_equals_the_single_device_run(x64, tmp_path):
    state = assert_resumes_exactly(tmp_path, 2, sigterm=True, checkpoint__every_epochs=0.0)
    assert_same(state, reference_state(state.updates, replicas=2), 1e-9)


@pytest.mark.long
def test_one_process_that_is_killed_resumes_exactly(tmp_path):
    assert_resumes_exactly(tmp_path, 1, checkpoint__every_epochs=0.0)


@pytest.mark.parametrize(("n", "spmd"), [long(3, "shard_map"), long(3, "jit"), long(3, "pmap")])
def test_processes_equal_the_single_device_run(x64, tmp_path, n, spmd):
    finish(tmp_path, n, max_updates=20, strategy__spmd=spmd)
    assert_same(final_state(tmp_path), reference_state(20, replicas=1 if spmd == "jit" else n), 1e-9)


@pytest.mark.parametrize(("name", "depth", "spmd"), [long("densenet", 10, "shard_map"), long("resnet", 8, "jit")])
def test_a_family_over_processes(x64, tmp_path, name, depth, spmd):
    finish(tmp_path, 2, max_updates=20, env=OPTIMIZED, model__name=name, model__depth=depth, strategy__spmd=spmd)
    replicas = 1 if spmd == "jit" else 2
    assert_same(final_state(tmp_path), reference_state(20, replicas=replicas, name=name, depth=depth), 1e-9)


@pytest.mark.long
def test_processes_of_several_devices_each(x64, tmp_path):
    finish(tmp_path, 2, max_updates=10, env={"JAX_NUM_CPU_DEVICES": "3"})
    assert_same(final_state(tmp_path), reference_state(10, replicas=6), 1e-9)


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


@pytest.mark.parametrize(("victim", "action"), [(0, "kill"), (1, "stop"), long(0, "stop"), long(2, "raise")])
def test_a_lost_peer_is_named_in_time(tmp_path, victim, action):
    fault = f"{action}@process={victim},update=5"
    with Run(tmp_path, 3, fault=fault, cluster__timeout_seconds=6.0) as run:
        wait_for_update(tmp_path, 3)
        run.loses(victim, action)


@pytest.mark.long
def test_a_warm_start_compiles_nothing_on_any_process(tmp_path):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    cold = finish(tmp_path / "cold", 2, max_updates=3, env=cache)
    warm = finish(tmp_path / "warm", 2, max_updates=3, env=cache)
    assert min(cold["programs_compiled"]) > 0
    assert cold["system"]["processes"].keys() == {"worker-0", "worker-1"}
    assert warm["programs_compiled"] == [0, 0]


@pytest.mark.long
def test_processes_may_take_unequally_long_to_compile(tmp_path):
    """Longer than the 30 s that gloo's members wait for each other."""
    finish(tmp_path, 2, fault="delay@process=1,point=compile,seconds=40", max_updates=3)
