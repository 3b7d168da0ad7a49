"""A transformer over lines of different lengths equals the single-device run under every strategy; with parameter
servers over processes: `processes/test_transformer.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.beside_one_device import Examples
from helpers.in_process import BATCH, PIPELINE, STRATEGIES
from helpers.processes import long
from helpers.reference import make_task

from jaxdist import data, models
from jaxdist.task import Classification

CASES = STRATEGIES | {
    "1f1b, four stages": (4, 4, PIPELINE | {"num_stages": 4, "num_microbatches": 4, "pipeline_schedule": "1f1b"}),
}
DEFAULT = ("allreduce", "fsdp", "mesh", "gpipe")


@pytest.fixture(scope="module")
def examples():
    objective = Classification(("accuracy", "kappa"), 30, sequence=True)
    found = data.load("number_words", options={"num_train": 64, "num_eval": 20})
    return Examples(data.checked(found, objective.check_target))


@pytest.fixture(scope="module")
def task(examples):
    classes, train = examples.dataset.num_classes, examples.dataset.train
    graph = models.build(
        "transformer", inputs=examples.loader.like(train), num_outputs=classes, settings={"dropout": 0.2},
        options={"width": 8},
    )  # fmt: skip
    objective = Classification(("accuracy", "kappa"), classes, sequence=True)
    like = examples.loader.answer_like(train)
    return dataclasses.replace(make_task("dense", optimizer="adam"), model=graph, objective=objective, target=like)


@pytest.mark.parametrize("name", [name if name in DEFAULT else long(name) for name in CASES])
def test_training_and_evaluation_equal_the_single_device_run(x64, task, examples, name):
    seen = examples.train(task, 4, *CASES[name])
    elements = float((seen.batches[-1]["target"] >= 0).sum())
    assert float(seen.metrics["elements"]) == elements and float(seen.metrics["count"]) == BATCH
    assert task.objective.values(seen.sums) == pytest.approx(task.objective.values(seen.wanted), rel=1e-9)


def test_bfloat16_is_what_blocks_compute_in(task):
    narrow = dataclasses.replace(task, dtype=np.dtype(np.float32), compute_dtype=jnp.bfloat16)

    def made(params, tokens):
        batch = {"inputs": {"tokens": tokens}}
        return narrow.apply_blocks(params, {}, batch, {}, train=False)[0]

    shapes = {name: narrow.typed(params) for name, (params, _) in narrow.model.shapes.items()}
    tokens = jax.ShapeDtypeStruct((2, *narrow.model.inputs["tokens"].shape), jnp.int32)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(made, shapes, tokens))} == {jnp.dtype(jnp.bfloat16)}
