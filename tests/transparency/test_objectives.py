"""Regression on a dict of inputs, with weights, equals the single-device run under every strategy; its metrics, too.

Strategies over several processes are held by `processes/test_objectives.py`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import two_inputs
from helpers.in_process import BATCH, SHARDED, build_pipeline, only, strategy_on
from helpers.processes import long
from helpers.reference import assert_same, make_task, train_reference

from jaxdist import data, models
from jaxdist.data.loader import Like
from jaxdist.models import contract
from jaxdist.task import Regression

PIPELINE = {"num_stages": 2, "num_microbatches": 2}
STRATEGIES = {
    "single": (1, 1, {"name": "single"}),
    "accumulate": (1, 2, {"name": "single", "accumulate": 2}),
    "allreduce": (4, 4, {}),
    "jit": (2, 1, {"spmd": "jit"}),
    "pmap": (2, 2, {"spmd": "pmap"}),
    "fsdp": (2, 1, SHARDED | {"shard_params": "fsdp"}),
    "zero1": (2, 1, SHARDED | {"shard_params": "zero1"}),
    "mesh": (4, 1, SHARDED | {"mesh": "data:2,model:2"}),
    "gpipe": (2, 2, PIPELINE),
    "1f1b, two replicas": (4, 4, PIPELINE | {"replicas": 2, "pipeline_schedule": "1f1b"}),
    "three stages": (3, 2, {"num_stages": 3, "num_microbatches": 2, "remat": True}),
}
METRICS = ("mean_absolute_error", "sigma_nmad", "outliers_0.01")
DEFAULT = ("allreduce", "jit", "fsdp", "1f1b, two replicas")


@pytest.fixture(scope="module")
def examples():
    return data.checked(two_inputs.load(num_train=96, num_eval=20, weighted=True), Regression().check_target)


@pytest.fixture(scope="module")
def loader(examples):
    return data.Loader(means=data.mean_of(examples.train), scales=data.scales_of(examples), seed=3, dtype=np.float64)


@pytest.fixture(scope="module")
def task(examples, loader):
    chain = models.build(
        "helpers.two_inputs:build", inputs=loader.like(examples.train), num_outputs=1, settings={}, options={}
    )
    objective = Regression("huber", METRICS, delta=0.1, bins=2000)
    return dataclasses.replace(
        make_task("dense"), model=chain, objective=objective, target=loader.answer_like(examples.train)
    )


def built(task, devices, settings):
    if "num_stages" in settings:
        return build_pipeline(task, devices=devices, **settings)
    return strategy_on(devices, task, BATCH, **settings)


@pytest.mark.parametrize("name", [name if name in DEFAULT else long(name) for name in STRATEGIES])
def test_training_and_evaluation_equal_the_single_device_run(x64, task, examples, loader, name):
    devices, replicas, settings = STRATEGIES[name]
    stream = data.ExampleStream(len(examples.train), 3)
    batches = [loader.train_batch(examples.train, stream, range(k * BATCH, (k + 1) * BATCH)) for k in range(8)]
    expected = train_reference(task, batches, replicas=replicas)
    strategy = built(task, devices, settings)
    with only(devices):
        state = strategy.import_state(task.init())
        for batch in batches:
            state, metrics = strategy.train_step(state, strategy.place(batch))
        assert float(metrics["count"]) == BATCH
        assert {"loss_sum", "mean_absolute_error_sum", "count"} <= set(metrics)
        evaluated = [strategy.eval_step(state, b) for b in loader.eval_batches(examples.evaluation, 8, 0, 1)]
        found = {k: sum(np.asarray(m[k], np.float64) for m in evaluated) for k in evaluated[0]}
        assert_same(strategy.export_state(state), expected, 1e-9)
    strategy.close()
    whole = next(loader.eval_batches(examples.evaluation, 20, 0, 1))
    wanted = task.evaluate(expected.params, expected.model_state, whole)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-7, atol=1e-9, err_msg=key)


def test_an_input_that_a_model_asks_for_and_is_not_there_is_named(examples, loader):
    like = {name: Like(*one) for name, one in loader.like(examples.train).items() if name != "noise"}
    chain = models.build("helpers.two_inputs:build", inputs=like, num_outputs=1, settings={}, options={})
    with pytest.raises(ValueError, match=r"block 'join' fails, .* dict of 'spectrum', 'mask': KeyError: 'noise'"):
        contract.check(chain, np.float32)


def test_an_input_that_a_model_does_not_use_is_named(examples, loader):
    like = loader.like(examples.train) | {"colour": Like((3,), np.dtype(np.float32))}
    chain = models.build("helpers.two_inputs:build", inputs=like, num_outputs=1, settings={}, options={})
    with pytest.raises(ValueError, match="block 'join' does not use 'colour'"):
        contract.check(chain, np.float32)
    with pytest.raises(ValueError, match="block 'conv1' fails, which is given a dict"):
        contract.check(models.build("cnn", inputs=like, num_outputs=1, settings={}, options={}), np.float32)
