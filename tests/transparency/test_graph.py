"""A model of branches equals the single-device run under every strategy, however it is cut and placed; what holds
`cost/branches.py` for devices of one process. Over processes: `processes/test_branches.py`.
"""

from __future__ import annotations

import dataclasses

import pytest
from helpers import two_inputs
from helpers.beside_one_device import Examples
from helpers.in_process import PIPELINE, STRATEGIES
from helpers.processes import long
from helpers.reference import make_task

from jaxdist import data, models
from jaxdist.task import Regression

TWO_MICROBATCHES = PIPELINE | {"num_microbatches": 2}
CASES = {name: STRATEGIES[name] for name in ("single", "jit", "fsdp", "zero1")} | {
    "allreduce": (2, 2, {}),
    "two stages": (2, 2, TWO_MICROBATCHES | {"num_stages": 2}),
    "three stages, 1f1b": (3, 2, TWO_MICROBATCHES | {"num_stages": 3, "pipeline_schedule": "1f1b"}),
    "a stage a block, remat": (6, 2, TWO_MICROBATCHES | {"num_stages": 6, "remat": True}),
    "two replicas of three stages": (6, 4, TWO_MICROBATCHES | {"num_stages": 3, "replicas": 2}),
    "branches": (3, 2, TWO_MICROBATCHES | {"branch_parallel": True, "replicas": 1}),
    "branches, 1f1b": (4, 4, PIPELINE | {"branch_parallel": True, "replicas": 1, "num_microbatches": 4,
                                         "pipeline_schedule": "1f1b"}),
}  # fmt: skip
DEFAULT = ("fsdp", "three stages, 1f1b", "a stage a block, remat", "branches, 1f1b")


@pytest.fixture(scope="module")
def examples():
    return Examples(data.checked(two_inputs.load(num_train=96, num_eval=20), Regression().check_target))


@pytest.fixture(scope="module")
def task(examples):
    train, loader = examples.dataset.train, examples.loader
    graph = models.build("helpers.branching:build", inputs=loader.like(train), num_outputs=1, settings={}, options={})
    base = make_task("dense", optimizer="adam")
    like = loader.answer_like(train)
    return dataclasses.replace(base, model=graph, objective=Regression(), target=like, clip_global_norm=0.05)


@pytest.mark.parametrize("name", [name if name in DEFAULT else long(name) for name in CASES])
def test_training_and_evaluation_equal_the_single_device_run(x64, task, examples, name):
    seen, (_, _, settings) = examples.train(task, 5, *CASES[name]), CASES[name]
    assert seen.sums["loss_sum"] == pytest.approx(float(seen.wanted["loss_sum"]), rel=1e-9)
    if settings.get("name") == "pipeline":
        row = seen.row
        assert 0 <= row["bubble"] < 1 and len(row["stage_ms"]) == len(row["stage_bytes_sent"])
        stages = settings["num_stages"] or len(seen.strategy.state_dict()["stages"])
        assert len(row["stage_ms"]) == stages
