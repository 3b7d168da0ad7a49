"""Synchronous data parallelism, in each spelling, equals the single-device run. (The single strategy is that run.)

The tiny chain goes through all options; each family goes through one spelling or more: what holds
`strategies/data_parallel/allreduce.py` and `strategies/data_parallel/pmap.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.in_process import BATCH, run_strategy
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference


@pytest.mark.parametrize("spmd", ["shard_map", "jit", "pmap"])
def test_allreduce_equals_the_single_device_run(x64, spmd):
    check("chain", spmd, 8)


def check(model, spmd, devices, size=BATCH):
    task, batches = make_task(model), make_batches(20, size)  # the learning rate drops after 240 examples
    expected = train_reference(task, batches, replicas=1 if spmd == "jit" else devices)
    assert_same(run_strategy(task, batches, devices=devices, spmd=spmd), expected, 1e-9)


@pytest.mark.long
@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("spmd", ["shard_map", "jit", "pmap"])
def test_allreduce_on_fewer_devices(x64, spmd, devices):
    check("chain", spmd, devices)


@pytest.mark.long
@pytest.mark.parametrize(("model", "spmd"), [("densenet", "shard_map"), ("densenet", "jit"), ("resnet", "pmap")])
def test_allreduce_of_every_family(x64, model, spmd):
    check(model, spmd, 4, size=4 if spmd == "jit" else BATCH)  # BatchNorm always sees four examples


def test_sync_batch_norm_sees_the_global_batch(x64):
    task, batches = make_task("chain"), make_batches(20, BATCH)
    expected = train_reference(task, batches, replicas=1)
    assert_same(run_strategy(task, batches, devices=4, sync_batch_norm=True), expected, 1e-9)


@pytest.mark.long
def test_sync_batch_norm_of_a_family(x64):
    task, batches = make_task("resnet_v2"), make_batches(20, 4)
    expected = train_reference(task, batches, replicas=1)
    assert_same(run_strategy(task, batches, devices=4, sync_batch_norm=True), expected, 1e-9)


def test_single_equals_the_reference(x64):
    task, batches = make_task("chain"), make_batches(20, BATCH)
    assert_same(run_strategy(task, batches, devices=1, name="single"), train_reference(task, batches, replicas=1), 1e-9)


@pytest.mark.parametrize(
    ("name", "devices", "accumulate"), [long("single", 1, 4), long("allreduce", 2, 2), ("allreduce", 4, 2)]
)
def test_accumulated_parts_equal_replicas(x64, name, devices, accumulate):
    task, batches = make_task("chain"), make_batches(5, BATCH)
    expected = train_reference(task, batches, replicas=devices * accumulate)
    assert_same(run_strategy(task, batches, devices=devices, name=name, accumulate=accumulate), expected, 1e-9)


@pytest.mark.parametrize("optimizer", [long("adadelta"), long("adagrad"), long("adam")])
def test_every_optimizer(x64, optimizer):
    task, batches = make_task("chain", optimizer=optimizer), make_batches(5, BATCH)
    assert_same(run_strategy(task, batches, devices=8), train_reference(task, batches, replicas=8), 1e-9)


@pytest.mark.parametrize("megabytes", [0.0, long(0.001)])
def test_fusion_does_not_change_the_result(x64, megabytes):
    task, batches = make_task("chain"), make_batches(3, BATCH)
    whole = run_strategy(task, batches, devices=8)
    assert_same(run_strategy(task, batches, devices=8, fusion_megabytes=megabytes), whole, 1e-12)


@pytest.mark.parametrize("spmd", ["shard_map", long("jit")])
def test_one_float32_update(spmd):
    check_float32("chain", spmd)


def check_float32(model, spmd):
    task, batches = make_task(model, np.float32), make_batches(1, BATCH, np.float32)
    expected = train_reference(task, batches, replicas=1 if spmd == "jit" else 4)
    assert_same(run_strategy(task, batches, devices=4, spmd=spmd), expected, 1e-5)


@pytest.mark.long
def test_one_float32_update_of_a_family():
    check_float32("densenet", "shard_map")


def test_bfloat16_is_near_float32():
    check_bfloat16("chain")


@pytest.mark.long
def test_bfloat16_of_a_family_is_near_float32():
    check_bfloat16("resnet")


def check_bfloat16(model):
    task, batches = make_task(model, np.float32), make_batches(1, BATCH // 4, np.float32)
    narrow = dataclasses.replace(task, compute_dtype=jnp.bfloat16)
    params, stats = (jax.tree.map(np.asarray, tree) for tree in (task.init().params, task.init().model_state))
    (wide_grads, _, wide), (grads, new_stats, metrics) = (
        jax.jit(t.gradient)(params, stats, batches[0]) for t in (task, narrow)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, new_stats))} == {np.dtype(np.float32)}
    np.testing.assert_allclose(metrics["loss_sum"], wide["loss_sum"], rtol=0.03)
    norm = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))  # noqa: E731
    assert norm(jax.tree.map(np.subtract, grads, wide_grads)) < 0.2 * norm(wide_grads)
