"""Each strategy, from the same bits and in the same data order, equals the single-device run."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.in_process import BATCH, run_strategy
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference


@pytest.mark.parametrize("devices", [long(1), long(2), long(4), 8])
@pytest.mark.parametrize("spmd", ["shard_map", "jit", "pmap"])
@pytest.mark.parametrize("model", ["densenet", "resnet"])
def test_allreduce_equals_the_single_device_run(x64, model, spmd, devices):
    task = make_task(model)
    batches = make_batches(20, BATCH)
    replicas = 1 if spmd == "jit" else devices
    expected = train_reference(task, batches, replicas=replicas)

    assert_same(run_strategy(task, batches, devices=devices, spmd=spmd), expected, 1e-9)


@pytest.mark.parametrize("model", [long("densenet"), "resnet_v2"])
def test_sync_batch_norm_sees_the_global_batch(x64, model):
    task = make_task(model)
    batches = make_batches(20, BATCH)
    expected = train_reference(task, batches, replicas=1)
    assert_same(run_strategy(task, batches, devices=4, sync_batch_norm=True), expected, 1e-9)


def test_single_equals_the_reference(x64):
    task = make_task("densenet")
    batches = make_batches(20, BATCH)
    assert_same(run_strategy(task, batches, devices=1, name="single"), train_reference(task, batches, replicas=1), 1e-9)


@pytest.mark.parametrize(("name", "devices", "accumulate"), [long("single", 1, 4), ("allreduce", 2, 2)])
def test_accumulated_parts_equal_replicas(x64, name, devices, accumulate):
    task = make_task("densenet")
    batches = make_batches(5, BATCH)
    expected = train_reference(task, batches, replicas=4)
    assert_same(run_strategy(task, batches, devices=devices, name=name, accumulate=accumulate), expected, 1e-9)


@pytest.mark.parametrize("optimizer", [long("adadelta"), "adagrad", long("adam")])
def test_every_optimizer(x64, optimizer):
    task = make_task("resnet", optimizer=optimizer)
    batches = make_batches(5, BATCH)
    assert_same(run_strategy(task, batches, devices=2), train_reference(task, batches, replicas=2), 1e-9)


@pytest.mark.parametrize("megabytes", [0.0, long(0.001)])
def test_fusion_does_not_change_the_result(x64, megabytes):
    task = make_task("resnet")
    batches = make_batches(3, BATCH)
    whole = run_strategy(task, batches, devices=4)
    assert_same(run_strategy(task, batches, devices=4, fusion_megabytes=megabytes), whole, 1e-12)


@pytest.mark.parametrize(
    ("model", "spmd"),
    [("densenet", "shard_map"), long("densenet", "jit"), long("resnet", "shard_map"), ("resnet", "jit")],
)
def test_one_float32_update(model, spmd):
    task = make_task(model, np.float32)
    batches = make_batches(1, BATCH, np.float32)
    expected = train_reference(task, batches, replicas=1 if spmd == "jit" else 4)
    assert_same(run_strategy(task, batches, devices=4, spmd=spmd), expected, 1e-5)


def test_bfloat16_is_near_float32():
    task = make_task("resnet", np.float32)
    batches = make_batches(1, BATCH, np.float32)
    narrow = dataclasses.replace(task, compute_dtype=jnp.bfloat16)
    params, stats = (jax.tree.map(np.asarray, tree) for tree in (task.init().params, task.init().model_state))
    (wide_grads, _, wide), (grads, new_stats, metrics) = (
        jax.jit(t.gradient)(params, stats, batches[0]) for t in (task, narrow)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, new_stats))} == {np.dtype(np.float32)}
    np.testing.assert_allclose(metrics["loss_sum"], wide["loss_sum"], rtol=0.03)
    norm = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))  # noqa: E731
    assert norm(jax.tree.map(np.subtract, grads, wide_grads)) < 0.2 * norm(wide_grads)
