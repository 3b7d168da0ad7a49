"""Clipping by the global norm, a moving average of the parameters, schedules and rules of optax: under every strategy
the numbers of one device. (With parameter servers: `processes/test_recipes.py`.)
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from helpers.in_process import BATCH, SHARDED, STRATEGIES, TWO_STAGES, only, run_strategy, strategy_on
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference

from jaxdist.optim import optimizers, schedules
from jaxdist.optim.optimizers import AVERAGE, AVERAGE_WEIGHT
from jaxdist.state import flatten, unflatten
from jaxdist.task.task import sum_of_squares

THREE_STAGES = "1f1b, three stages, two replicas"
CASES = STRATEGIES | {
    THREE_STAGES: (6, 4, TWO_STAGES | {"num_stages": 3, "replicas": 2, "pipeline_schedule": "1f1b"}),
}
CLIP = 0.46
DEFAULT = ("allreduce", "fsdp", "zero1", THREE_STAGES)
SCHEDULES = {
    "warmup_cosine": {"warmup_epochs": 0.1, "final_factor": 0.1},
    "one_cycle": {},
    "cosine": {"warmup_epochs": 0.05},
}


def recipe(optimizer: str = "adamw", schedule: str = "warmup_cosine", clip: float = CLIP):
    """A task whose gradients are clipped in some updates and not in others."""
    rate = schedules.build(
        schedule, learning_rate=0.02, drop_epochs=(), drop_factor=1.0, examples_per_epoch=96, num_epochs=1.0,
        **SCHEDULES[schedule],
    )  # fmt: skip
    rule = optimizers.build(optimizer, weight_decay=0.01, ema_decay=0.7)
    return dataclasses.replace(make_task("chain"), optimizer=rule, learning_rate=rate, clip_global_norm=clip)


@pytest.fixture(scope="module")
def tasks():
    return {}


@pytest.mark.parametrize("name", [name if name in DEFAULT else long(name) for name in CASES])
def test_a_recipe_equals_the_single_device_run(x64, tasks, name):
    devices, replicas, settings = CASES[name]
    task = tasks.setdefault("adamw", recipe())
    batches = make_batches(6, BATCH)
    expected = train_reference(task, batches, replicas=replicas)
    strategy = strategy_on(devices, task, BATCH, **settings)
    with only(devices):
        state = strategy.import_state(task.init())
        evaluation = {key: value for key, value in batches[0].items() if key != "position"} | {"mask": np.ones(BATCH)}
        before = strategy.eval_step(state, evaluation)
        np.testing.assert_allclose(before["loss_sum"], _loss(task, task.init(), evaluation), rtol=1e-9)
        for batch in batches:
            state, _ = strategy.train_step(state, strategy.place(batch))
        evaluated = strategy.eval_step(state, evaluation)
        np.testing.assert_allclose(evaluated["loss_sum"], _loss(task, expected, evaluation), rtol=1e-9)
        assert_same(strategy.export_state(state), expected, 1e-9)
    strategy.close()


def _loss(task, state, batch) -> float:
    """Of the average of the parameters, computed plainly."""
    arrays = state.in_memory().arrays()
    weight = np.asarray(arrays["opt_state"][AVERAGE_WEIGHT])
    params = arrays["params"]
    if weight > 0:
        averages = flatten(arrays["opt_state"][AVERAGE])
        params = unflatten({path: np.asarray(averages[path]) / weight for path in averages})
    return float(task.evaluate(params, arrays["model_state"], batch)["loss_sum"])


def test_some_updates_of_the_recipe_are_clipped_and_some_are_not(x64):
    """Else the tests above would say nothing."""
    task, batches = recipe(), make_batches(6, BATCH)
    norms = []
    for k, batch in enumerate(batches):
        arrays = train_reference(task, batches[:k], replicas=1).arrays()
        grads, _, _ = jax.jit(task.gradient)(arrays["params"], arrays["model_state"], batch)
        norms.append(float(np.sqrt(sum_of_squares(grads))))
    assert min(norms) < 0.95 * CLIP and max(norms) > 1.05 * CLIP, norms


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [long("nadam", "one_cycle"), long("lion", "cosine"), long("rmsprop", "cosine"), ("amsgrad", "one_cycle")],
)
def test_other_rules_and_schedules(x64, optimizer, schedule):
    task, batches = recipe(optimizer, schedule, 0.0), make_batches(4, BATCH)
    expected = train_reference(task, batches, replicas=1)
    assert_same(run_strategy(task, batches, devices=2, **SHARDED | {"shard_params": "fsdp"}), expected, 1e-9)
