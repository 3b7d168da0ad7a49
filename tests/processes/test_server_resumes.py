"""Runs on parameter servers that are killed or stopped as a whole, and go on from their checkpoints."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from helpers.outcomes import final_state, reference_state
from helpers.processes import Run, finish, wait_for_event
from helpers.reference import assert_same

from jaxdist.state import TrainState
from jaxdist.state.position import size

SLOW = "delay@seconds=0.05"  # so that there is time to hurt a run
ENDLESS = {
    "num_epochs": 200.0,
    "global_batch_size": 8,
    "servers": 2,
    "fault": SLOW,
    "checkpoint__every_updates": 10,
    "strategy__lease_seconds": 3.0,
    "cluster__timeout_seconds": 20.0,
}


def chief_is_lost(folder, number: int, **settings) -> TrainState:
    """A run whose chief gets a signal once something is saved, which ends everybody; what it leaves."""
    with Run(folder, 2, **ENDLESS | settings | {"cluster__timeout_seconds": 8.0}) as run:
        wait_for_event(folder, "saved", after=0)
        run.processes[0].send_signal(number)
        began = time.monotonic()
        for p in [run.processes[1], *run.servers]:
            output, _ = p.communicate(timeout=60)
            assert p.returncode == 1, output[-1500:]
            assert "worker 0 (the chief) was lost" in output.splitlines()[-1], output[-1500:]
        assert time.monotonic() - began < 60
    stored = final_state(folder)
    assert stored.updates >= 10
    return stored


def all_are_killed(folder, after: int, **settings) -> TrainState:
    """A run whose processes are all killed once it has saved something after that update; what it leaves."""
    with Run(folder, 2, **ENDLESS | settings) as run:
        wait_for_event(folder, "saved", after)
        for p in [*run.servers, *run.processes]:
            p.kill()
    stored = final_state(folder)
    assert stored.updates > after
    return stored


def all_get_sigterm(folder, after: int, **settings) -> TrainState:
    """A run whose processes all get SIGTERM after something is saved again: they save and say so; what it leaves."""
    with Run(folder, 2, **ENDLESS | settings) as run:
        wait_for_event(folder, "saved", after)
        for p in [*run.processes, *run.servers]:
            p.send_signal(signal.SIGTERM)
        ended = run.wait(60)
    # Worker 1 may have done no step of its own yet: then it has nothing to save, and ends at once.
    chief, worker, *servers = (e.code for e in ended)
    assert [chief, *servers] == [75] * 3 and worker in (75, 143), [e.output[-1500:] for e in ended]
    stored = final_state(folder)
    assert stored.updates > after
    return stored


def epochs_after(state: TrainState) -> float:
    """A whole number of epochs that is not over yet."""
    return float((state.examples_seen + 60) // 240 + 1)


def test_a_run_resumes_however_it_has_ended(tmp_path):
    """Its chief is killed; then all its processes; then all are stopped; what is left is trained on to the end."""
    stored = chief_is_lost(tmp_path, signal.SIGKILL)
    assert stored.examples_seen == 4 * stored.updates
    stored = all_are_killed(tmp_path, stored.updates)
    assert stored.examples_seen == 4 * stored.updates
    stored = all_get_sigterm(tmp_path, stored.updates)
    assert size(stored.pending) > 0, "what is claimed is saved as not done"
    assert stored.examples_seen == 4 * stored.updates
    assert stored.position.next == stored.examples_seen + size(stored.pending)
    epochs = epochs_after(stored)
    summary = finish(tmp_path, 2, **ENDLESS | {"fault": "", "num_epochs": epochs})
    assert summary["examples_seen"] == 240 * epochs
    assert summary["updates"] - stored.updates == (240 * epochs - stored.examples_seen) // 4


@pytest.mark.long
def test_an_asynchronous_run_goes_on_under_allreduce_without_losing_examples(x64, tmp_path):
    """Its chief stands still; then all its processes are stopped; what is left is trained on by synchronous ones."""
    stored = chief_is_lost(tmp_path, signal.SIGSTOP)
    before = all_get_sigterm(tmp_path, stored.updates)
    epochs = epochs_after(before)
    summary = finish(tmp_path, 2, num_epochs=epochs, global_batch_size=8)
    after = final_state(tmp_path)
    assert (240 * epochs - before.examples_seen) // 8 == summary["updates"] - before.updates
    assert not after.pending and after.examples_seen == summary["examples_seen"]
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in after.params["stem"]["conv"].values())


@pytest.mark.long
def test_at_staleness_0_a_run_in_parts_is_one_run(x64, tmp_path):
    """Begun under allreduce, killed as a whole under the parameter server, resumed there and ended under allreduce."""
    finish(tmp_path, 2, max_updates=6, global_batch_size=8)
    servers = {"strategy__max_staleness": 0}
    stored = all_are_killed(tmp_path, 6, **servers)
    assert stored.examples_seen == 8 * stored.updates
    until = stored.updates + 40  # the learning rate drops on the way
    finish(tmp_path, 2, **ENDLESS | servers | {"fault": "", "max_updates": until})
    assert_same(final_state(tmp_path), reference_state(until, replicas=2, batch=8), 1e-9)
    finish(tmp_path, 2, num_epochs=200.0, max_updates=until + 7, global_batch_size=8)
    assert_same(final_state(tmp_path), reference_state(until + 7, replicas=2, batch=8), 1e-9)
