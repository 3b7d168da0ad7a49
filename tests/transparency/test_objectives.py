"""Regression on a dict of inputs, with weights, equals the single-device run under every strategy; its metrics, too.

Strategies over several processes are held by `processes/test_objectives.py`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import two_inputs
from helpers.beside_one_device import Examples
from helpers.in_process import BATCH, STRATEGIES, TWO_STAGES
from helpers.processes import long
from helpers.reference import make_task

from jaxdist import data, models
from jaxdist.data.loader import Like
from jaxdist.models import contract
from jaxdist.task import Regression

CASES = STRATEGIES | {
    "accumulate": (1, 2, {"name": "single", "accumulate": 2}),
    "1f1b, two replicas": (4, 4, TWO_STAGES | {"replicas": 2, "pipeline_schedule": "1f1b"}),
    "three stages": (3, 2, TWO_STAGES | {"num_stages": 3, "remat": True}),
}
METRICS = ("mean_absolute_error", "sigma_nmad", "outliers_0.01")
DEFAULT = ("allreduce", "jit", "fsdp", "1f1b, two replicas")


@pytest.fixture(scope="module")
def examples():
    found = two_inputs.load(num_train=96, num_eval=20, weighted=True)
    return Examples(data.checked(found, Regression().check_target))


@pytest.fixture(scope="module")
def like(examples):
    return examples.loader.like(examples.dataset.train)


@pytest.fixture(scope="module")
def task(examples, like):
    chain = models.build("helpers.two_inputs:build", inputs=like, num_outputs=1, settings={}, options={})
    objective = Regression("huber", METRICS, delta=0.1, bins=2000)
    target = examples.loader.answer_like(examples.dataset.train)
    return dataclasses.replace(make_task("dense"), model=chain, objective=objective, target=target)


@pytest.mark.parametrize("name", [name if name in DEFAULT else long(name) for name in CASES])
def test_training_and_evaluation_equal_the_single_device_run(x64, task, examples, name):
    seen = examples.train(task, 8, *CASES[name])
    assert float(seen.metrics["count"]) == BATCH
    assert {"loss_sum", "mean_absolute_error_sum", "count"} <= set(seen.metrics)
    assert seen.sums.keys() == seen.wanted.keys()
    for key, value in seen.wanted.items():
        np.testing.assert_allclose(seen.sums[key], value, rtol=1e-7, atol=1e-9, err_msg=key)


def test_an_input_that_a_model_asks_for_and_is_not_there_is_named(like):
    like = {name: Like(*one) for name, one in like.items() if name != "noise"}
    chain = models.build("helpers.two_inputs:build", inputs=like, num_outputs=1, settings={}, options={})
    with pytest.raises(ValueError, match=r"block 'join' fails, .* dict of 'spectrum', 'mask': KeyError: 'noise'"):
        contract.check(chain, np.float32)


def test_an_input_that_a_model_does_not_use_is_named(like):
    like = like | {"colour": Like((3,), np.dtype(np.float32))}
    chain = models.build("helpers.two_inputs:build", inputs=like, num_outputs=1, settings={}, options={})
    with pytest.raises(ValueError, match="block 'join' does not use 'colour'"):
        contract.check(chain, np.float32)
    with pytest.raises(ValueError, match="block 'conv1' fails, which is given a dict"):
        contract.check(models.build("cnn", inputs=like, num_outputs=1, settings={}, options={}), np.float32)
