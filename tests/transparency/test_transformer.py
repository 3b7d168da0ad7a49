"""A transformer over lines of different lengths equals the single-device run under every strategy; with parameter
servers over processes: `processes/test_transformer.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.in_process import BATCH, SHARDED, build_pipeline, only, strategy_on
from helpers.processes import long
from helpers.reference import assert_same, make_task, train_reference

from jaxdist import data, models
from jaxdist.task import Classification

PIPELINE = {"num_stages": 2, "num_microbatches": 2}
STRATEGIES = {
    "single": (1, 1, {"name": "single"}),
    "allreduce": (4, 4, {}),
    "jit": (2, 1, {"spmd": "jit"}),
    "pmap": (2, 2, {"spmd": "pmap"}),
    "fsdp": (2, 1, SHARDED | {"shard_params": "fsdp"}),
    "zero1": (2, 1, SHARDED | {"shard_params": "zero1"}),
    "mesh": (4, 1, SHARDED | {"mesh": "data:2,model:2"}),
    "gpipe": (2, 2, PIPELINE),
    "1f1b, four stages": (4, 4, PIPELINE | {"num_stages": 4, "num_microbatches": 4, "pipeline_schedule": "1f1b"}),
}  # fmt: skip
DEFAULT = ("allreduce", "fsdp", "mesh", "gpipe")


@pytest.fixture(scope="module")
def examples():
    objective = Classification(("accuracy", "kappa"), 30, sequence=True)
    return data.checked(data.load("number_words", options={"num_train": 64, "num_eval": 20}), objective.check_target)


@pytest.fixture(scope="module")
def loader(examples):
    return data.Loader(means=data.mean_of(examples.train), scales=data.scales_of(examples), seed=3, dtype=np.float64)


@pytest.fixture(scope="module")
def task(examples, loader):
    classes = examples.num_classes
    graph = models.build(
        "transformer", inputs=loader.like(examples.train), num_outputs=classes, settings={"dropout": 0.2},
        options={"width": 8},
    )  # fmt: skip
    objective = Classification(("accuracy", "kappa"), classes, sequence=True)
    like = loader.answer_like(examples.train)
    return dataclasses.replace(make_task("dense", optimizer="adam"), model=graph, objective=objective, target=like)


@pytest.mark.parametrize("name", [name if name in DEFAULT else long(name) for name in STRATEGIES])
def test_training_and_evaluation_equal_the_single_device_run(x64, task, examples, loader, name):
    devices, replicas, settings = STRATEGIES[name]
    stream = data.ExampleStream(len(examples.train), 3)
    batches = [loader.train_batch(examples.train, stream, range(k * BATCH, (k + 1) * BATCH)) for k in range(4)]
    expected = train_reference(task, batches, replicas=replicas)
    if "num_stages" in settings:
        strategy = build_pipeline(task, devices=devices, **settings)
    else:
        strategy = strategy_on(devices, task, BATCH, **settings)
    with only(devices):
        state = strategy.import_state(task.init())
        for batch in batches:
            state, metrics = strategy.train_step(state, strategy.place(batch))
        elements = float((batches[-1]["target"] >= 0).sum())
        assert float(metrics["elements"]) == elements and float(metrics["count"]) == BATCH
        found = [strategy.eval_step(state, b) for b in loader.eval_batches(examples.evaluation, 8, 0, 1)]
        sums = {key: sum(np.asarray(one[key], np.float64) for one in found) for key in found[0]}
        assert_same(strategy.export_state(state), expected, 1e-9)
    strategy.close()
    (whole,) = loader.eval_batches(examples.evaluation, 20, 0, 1)
    final = expected.in_memory()
    wanted = task.evaluate(final.params, final.model_state, whole)
    assert task.objective.values(sums) == pytest.approx(task.objective.values(wanted), rel=1e-9)


def test_bfloat16_is_what_blocks_compute_in(task):
    narrow = dataclasses.replace(task, dtype=np.dtype(np.float32), compute_dtype=jnp.bfloat16)

    def made(params, tokens):
        batch = {"inputs": {"tokens": tokens}}
        return narrow.apply_blocks(params, {}, batch, {}, train=False)[0]

    shapes = {name: narrow.typed(params) for name, (params, _) in narrow.model.shapes.items()}
    tokens = jax.ShapeDtypeStruct((2, *narrow.model.inputs["tokens"].shape), jnp.int32)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(made, shapes, tokens))} == {jnp.dtype(jnp.bfloat16)}
