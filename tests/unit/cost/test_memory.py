"""Bytes that a process needs, by arithmetic, and the limit that refuses it. `transparency/` measures some."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.in_process import BATCH
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.cost import memory
from jaxdist.cost.balance import Plan
from jaxdist.cost.blocks import block_costs
from jaxdist.cost.memory import Need, Share
from jaxdist.errors import UsageError
from jaxdist.optim import optimizers

PARAMS = 8 * (64 * 4 + 4 + 2 * 4) + 8 * (4 * 10 + 10)


def test_slots_follow_the_optimizer(x64):
    task = make_task("dense")
    assert memory.slots_per_param(task) == 1  # momentum
    assert memory.slots_per_param(dataclasses.replace(task, optimizer=optimizers.build("adam"))) == 2


def test_a_whole_model_on_each_device_and_a_model_in_shares(x64):
    task = make_task("dense")
    kept = sum(cost.saved_bytes for cost in block_costs(task, 5))
    one, two = (memory.of_whole_model(task, 5, devices) for devices in (1, 2))
    assert one == Need(PARAMS, PARAMS, PARAMS, kept, 2 * PARAMS)
    assert two == Need(2 * PARAMS, 2 * PARAMS, 2 * PARAMS, 2 * kept, 2 * PARAMS)
    largest = max(cost.param_bytes for cost in block_costs(task, 5))
    gathered = memory.of_divided_model(task, 5, 2, Share(0.25, 0.25, gathers=True))
    assert gathered == Need(
        PARAMS // 2, 2 * (PARAMS // 4 + 2 * largest), PARAMS // 2, 2 * kept, 2 * (2 * (PARAMS // 4)) + largest
    )
    assert memory.of_divided_model(task, 5, 2, Share(1.0, 0.5)).grads == 2 * PARAMS


def test_stages_keep_as_many_microbatches_as_their_schedule_has_in_flight(x64):
    task = make_task("dense")
    costs = block_costs(task, 5)
    plan = Plan(tuple((name,) for name in task.model.names), {}, {})
    for schedule, in_flight in (("gpipe", (4, 4)), ("1f1b", (2, 1))):
        for remat in (False, True):
            needs = memory.of_stages(task, costs, plan, num_microbatches=4, schedule=schedule, remat=remat)
            for need, cost, count in zip(needs, costs, in_flight, strict=True):
                kept = count * (cost.input_bytes if remat else cost.saved_bytes) + remat * cost.saved_bytes
                assert (need.params, need.slots, need.activations) == (cost.param_bytes, cost.param_bytes, kept)


def test_more_than_the_limit_is_refused_with_the_sum_and_the_remedy():
    need = Need(*(int(x * memory.GB) for x in (1, 2, 3, 4, 0.5)))
    assert need.total == 10.5 * memory.GB
    for limit in (0.0, 10.5):  # 0: none
        memory.check(need, {"memory_limit": limit}, "A process", "Take more.")
    with pytest.raises(UsageError) as e:
        memory.check(need, {"memory_limit": 10.4}, "A process", "Take more.")
    assert str(e.value) == (
        "A process needs about 10.500 GB (parameters 1.000, gradients 2.000, optimizer 3.000, activations 4.000, "
        "checkpoint 0.500), more than strategy.memory_limit=10.4 GB. Take more."
    )


def test_a_whole_model_beyond_the_limit_is_refused():
    task = make_task("chain", np.float32)
    limited = default_config().strategy
    limited.memory_limit = 1e-6
    with pytest.raises(UsageError, match=r"One process needs about .*memory_limit=1e-06 GB.*'pipeline' cuts"):
        strategies.check(limited, task, global_batch_size=BATCH, num_processes=1, num_devices=1)
