"""State in equal shares: what a device holds, what is kept for the backward pass, and any chain of optimizers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.in_process import SHARDED, run_strategy, strategy_on
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference
from helpers.three_layers import STATEFUL, three_layers

from jaxdist.state import flatten


@pytest.mark.parametrize("devices", [3, long(8)])
@pytest.mark.parametrize("how", ["fsdp", "zero1"])
def test_a_device_holds_its_share(how, devices):
    task = make_task("chain", np.float32)
    strategy = strategy_on(devices, task, **SHARDED | {"shard_params": how})
    state, _ = strategy.train_step(
        strategy.import_state(task.init()), strategy.place(make_batches(1, 24, np.float32)[0])
    )
    canonical = flatten(task.init().arrays())
    for tree in ("params", "opt_state"):
        leaves = [leaf for name, leaf in canonical.items() if name.startswith(tree)]
        small = sum(leaf.nbytes for leaf in leaves if np.prod(leaf.shape) < SHARDED["shard_threshold"])
        whole = sum(leaf.nbytes for leaf in leaves)
        divided = whole / devices + small + 4 * len(leaves)  # a vector is padded by less than an element a device
        for device in jax.devices()[:devices]:
            held = sum(
                shard.data.nbytes
                for leaf in jax.tree.leaves(state.arrays[tree])
                for shard in leaf.addressable_shards
                if shard.device == device
            )
            assert held <= divided or (how, tree) == ("zero1", "params")


@pytest.mark.parametrize("dtype", ["float32", long("bfloat16")])
def test_gathered_parameters_are_not_kept_for_the_backward_pass(dtype):
    task = dataclasses.replace(make_task("chain", np.float32), compute_dtype=jnp.dtype(dtype))
    strategy = strategy_on(4, task, **SHARDED | {"shard_params": "fsdp"})
    strategy.prepare(strategy.import_state(task.init()), strategy.place(make_batches(1, 16, np.float32)[0]))
    tensors = [t for kinds in strategy._layout.tensors.values() for ts in kinds.values() for t in ts]
    gathered = strategy.collectives()["all-gather"]["bytes"]
    # Twice, but for the last block, whose backward pass follows at once.
    assert gathered >= 2 * 4 * sum(t.size for t in tensors if not t.name.startswith("dense/"))


@pytest.mark.parametrize("how", ["fsdp", long("zero1")])
def test_gradients_are_sent_once(how):
    """As a reduce-scatter does; an all-reduce would send them twice."""
    task = make_task("chain", np.float32)
    strategy = strategy_on(4, task, **SHARDED | {"shard_params": how})
    strategy.prepare(strategy.import_state(task.init()), strategy.place(make_batches(1, 16, np.float32)[0]))
    tensors = [t for kinds in strategy._layout.tensors.values() for ts in kinds.values() for t in ts]
    divided, found = sum(t.size for t in tensors), strategy.collectives()
    assert 3 * divided <= found["all-to-all"]["bytes_sent"] < 3 * (divided + 4 * len(tensors))  # 4 bytes, 3 shares of 4
    assert found["all-reduce"]["bytes"] < 4 * divided


@pytest.mark.parametrize("how", ["fsdp", long("zero1")])
def test_shares_keep_a_chain_as_it_is_and_train_alike(x64, how):
    task, batches = three_layers(STATEFUL), make_batches(3, 15)
    expected = train_reference(task, batches, replicas=1)
    strategy = strategy_on(3, task, 15, **SHARDED | {"shard_params": how})
    for state in (task.init(), expected):
        assert_same(strategy.export_state(strategy.import_state(state)), state, 0.0)
    assert_same(run_strategy(task, batches, devices=3, strategy=strategy), expected, 1e-9)


@pytest.mark.parametrize("how", ["fsdp", long("zero1")])
def test_an_average_of_parameters_some_of_which_are_too_small_to_divide(x64, how):
    task, batches = three_layers(STATEFUL), make_batches(2, 15)
    task = dataclasses.replace(task, optimizer=dataclasses.replace(task.optimizer, ema_decay=0.5))
    biggest = max(np.prod(leaf.shape) for leaf in jax.tree.leaves(task.init().params))
    for threshold in (biggest, biggest + 1):  # blocks with nothing to divide, among others and alone
        strategy = strategy_on(3, task, 15, **SHARDED | {"shard_params": how, "shard_threshold": int(threshold)})
        found = run_strategy(task, batches, devices=3, strategy=strategy)
        assert_same(found, train_reference(task, batches, replicas=1), 1e-9)
