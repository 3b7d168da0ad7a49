"""What phases need is known before any of them begins."""

from __future__ import annotations

import contextlib

import pytest
from helpers.outcomes import tiny_task

from jaxdist.config import default_config
from jaxdist.config.phases import schedule_of
from jaxdist.errors import UsageError
from jaxdist.train import phase_needs


def _strategy(schedule: str):
    """`config.strategy` of a run of these phases; of one strategy where there is no comma."""
    strategy = default_config().strategy
    if "," in schedule:
        strategy.update({"name": "switch", "schedule": schedule})
    else:
        strategy.name = schedule
    return strategy


@pytest.mark.parametrize(
    ("schedule", "processes", "words"),
    [
        ("allreduce:0.5,parameter_server", 1, "^Phase 2 of strategy.schedule, parameter_server: .*needs --server_add"),
        ("single:0.5,allreduce", 2, "^Phase 1 of strategy.schedule, single: .*for one process, but there are 2"),
        ("single", 2, "^strategy.name='single' .*for one process, but there are 2"),  # of no phase
    ],
)
def test_phases_that_cannot_work_are_refused(schedule, processes, words):
    task, _ = tiny_task()
    strategy = _strategy(schedule)
    resources = {"global_batch_size": 12, "num_processes": processes, "num_devices": processes, "num_servers": 0}
    with pytest.raises(UsageError, match=words):
        phase_needs.check(schedule_of(strategy), strategy, task, **resources)


@pytest.mark.parametrize(
    ("schedule", "values", "words"),
    [
        ("model_parallel", {"mesh": "data:2,model:4"}, None),
        ("model_parallel", {"mesh": "model:2,data:4"}, "data.partition='iid' gives each worker data of its own"),
        ("pipeline", {}, "Use one of allreduce, parameter_server"),
        ("parameter_server:0.5,allreduce", {"switch_when": "plateau"}, "^Phase 1 .*'plateau': an asynchronous phase"),
    ],
)
def test_data_that_are_distributed_need_workers_with_examples_of_their_own(schedule, values, words):
    task, _ = tiny_task()
    strategy = _strategy(schedule)
    strategy.update(values)
    resources = {"global_batch_size": 16, "num_processes": 2, "num_devices": 8, "num_servers": 1}
    with contextlib.nullcontext() if words is None else pytest.raises(UsageError, match=words):
        phase_needs.check(schedule_of(strategy), strategy, task, partition="iid", **resources)


@pytest.mark.parametrize(
    ("schedule", "fate_sharing", "collectives"),
    [
        ("allreduce", True, True),
        ("parameter_server", False, False),
        ("allreduce:0.5,parameter_server", True, False),  # phases open collectives as they need them
        ("parameter_server:0.5,parameter_server", True, False),
    ],
)
def test_how_the_processes_of_a_run_are_connected(schedule, fate_sharing, collectives):
    strategy = _strategy(schedule)
    assert phase_needs.fate_sharing(schedule_of(strategy)) == fate_sharing
    assert phase_needs.needs_collectives(schedule_of(strategy), strategy, 2) == collectives
