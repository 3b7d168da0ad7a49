"""A model of branches equals the single-device run under every strategy, however it is cut and placed; what holds
`cost/branches.py` for devices of one process. Over processes: `processes/test_branches.py`.
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
from jaxdist.task import Regression

PIPELINE = {"num_microbatches": 2}
STRATEGIES = {
    "single": (1, 1, {"name": "single"}),
    "allreduce": (2, 2, {}),
    "jit": (2, 1, {"spmd": "jit"}),
    "fsdp": (2, 1, SHARDED | {"shard_params": "fsdp"}),
    "zero1": (2, 1, SHARDED | {"shard_params": "zero1"}),
    "two stages": (2, 2, PIPELINE | {"num_stages": 2}),
    "three stages, 1f1b": (3, 2, PIPELINE | {"num_stages": 3, "pipeline_schedule": "1f1b"}),
    "a stage a block, remat": (6, 2, PIPELINE | {"num_stages": 6, "remat": True}),
    "two replicas of three stages": (6, 4, PIPELINE | {"num_stages": 3, "replicas": 2}),
    "branches": (3, 2, PIPELINE | {"branch_parallel": True, "replicas": 1}),
    "branches, 1f1b": (4, 4, {"branch_parallel": True, "replicas": 1, "num_microbatches": 4,
                              "pipeline_schedule": "1f1b"}),
}  # fmt: skip
DEFAULT = ("fsdp", "three stages, 1f1b", "a stage a block, remat", "branches, 1f1b")


@pytest.fixture(scope="module")
def examples():
    return data.checked(two_inputs.load(num_train=96, num_eval=20), Regression().check_target)


@pytest.fixture(scope="module")
def loader(examples):
    return data.Loader(means=data.mean_of(examples.train), scales=data.scales_of(examples), seed=3, dtype=np.float64)


@pytest.fixture(scope="module")
def task(examples, loader):
    graph = models.build(
        "helpers.branching:build", inputs=loader.like(examples.train), num_outputs=1, settings={}, options={}
    )
    base = make_task("dense", optimizer="adam")
    like = loader.answer_like(examples.train)
    return dataclasses.replace(base, model=graph, objective=Regression(), target=like, clip_global_norm=0.05)


@pytest.mark.parametrize("name", [name if name in DEFAULT else long(name) for name in STRATEGIES])
def test_training_and_evaluation_equal_the_single_device_run(x64, task, examples, loader, name):
    devices, replicas, settings = STRATEGIES[name]
    stream = data.ExampleStream(len(examples.train), 3)
    batches = [loader.train_batch(examples.train, stream, range(k * BATCH, (k + 1) * BATCH)) for k in range(5)]
    expected = train_reference(task, batches, replicas=replicas)
    staged = "num_stages" in settings or "branch_parallel" in settings
    staged = staged and settings.get("name") is None
    if staged:
        strategy = build_pipeline(task, devices=devices, **settings)
    else:
        strategy = strategy_on(devices, task, BATCH, **settings)
    with only(devices):
        state = strategy.import_state(task.init())
        for batch in batches:
            state, _ = strategy.train_step(state, strategy.place(batch))
        found = [strategy.eval_step(state, b) for b in loader.eval_batches(examples.evaluation, 8, 0, 1)]
        total = sum(float(np.asarray(one["loss_sum"])) for one in found)
        assert_same(strategy.export_state(state), expected, 1e-9)
        row = strategy.report.row()
    strategy.close()
    (whole,) = loader.eval_batches(examples.evaluation, 20, 0, 1)
    final = expected.in_memory()
    assert total == pytest.approx(float(task.evaluate(final.params, final.model_state, whole)["loss_sum"]), rel=1e-9)
    if staged:
        assert 0 <= row["bubble"] < 1 and len(row["stage_ms"]) == len(row["stage_bytes_sent"])
        assert len(row["stage_ms"]) == (settings.get("num_stages") or len(strategy.state_dict()["stages"]))
