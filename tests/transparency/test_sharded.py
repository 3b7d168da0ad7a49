"""State divided over a mesh, by rules or in equal shares: the numbers of one device.

The tiny chain goes through meshes, shares and optimizers; each family goes through its rules and one kind of shares.
"""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from helpers.in_process import SHARDED, run_strategy, strategy_on
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference

from jaxdist.state import flatten


def test_a_mesh_equals_the_single_device_run(x64):
    check(20, 8, {"mesh": "data:4,model:2"})  # the learning rate drops after 15 updates


def check(updates, devices, options, model="chain", size=16):
    task, batches = make_task(model), make_batches(updates, size)
    expected = train_reference(task, batches, replicas=1)
    assert_same(run_strategy(task, batches, devices=devices, **SHARDED | options), expected, 1e-9)


@pytest.mark.long
@pytest.mark.parametrize(
    ("devices", "mesh"),
    [
        (1, "data:1,model:1"),
        (2, "data:2,model:1"),
        (2, "data:1,model:2"),
        (4, "data:2,model:2"),
        (4, "model:2,data:2"),
        (4, "data:1,model:4"),
        (4, "model:4,data:1"),
    ],
)
def test_every_mesh(x64, devices, mesh):
    check(20, devices, {"mesh": mesh})


@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        long("resnet", "data:2,model:2"),
        long("densenet", "data:2,model:2"),
        long("resnet_v2", "data:2,model:2"),
    ],
)
def test_the_rules_of_every_family(x64, model, mesh):
    check(10, 4, {"mesh": mesh}, model, size=4)


@pytest.mark.parametrize(("devices", "how"), [(8, "fsdp"), (2, "zero1")])
def test_shares_equal_the_single_device_run(x64, devices, how):
    check(20, devices, {"shard_params": how})


@pytest.mark.long
@pytest.mark.parametrize(("devices", "how"), [(1, "fsdp"), (2, "fsdp"), (3, "fsdp"), (3, "zero1"), (4, "zero1")])
def test_any_number_of_shares(x64, devices, how):
    check(20, devices, {"shard_params": how}, size=24 if devices == 3 else 16)  # three divides no tensor


@pytest.mark.long
@pytest.mark.parametrize(("model", "how"), [("densenet", "fsdp"), ("resnet", "zero1"), ("resnet_v2", "fsdp")])
def test_shares_of_every_family(x64, model, how):
    check(10, 4, {"shard_params": how}, model, size=4)


@pytest.mark.parametrize(("how", "devices", "size"), [("fsdp", 3, 6), long("fsdp", 4, 16), long("zero1", 4, 16)])
def test_batch_norm_may_be_per_replica(x64, how, devices, size):
    task, batches = make_task("chain"), make_batches(10, size)
    options = SHARDED | {"shard_params": how, "sync_batch_norm": False}
    expected = train_reference(task, batches, replicas=devices)
    assert_same(run_strategy(task, batches, devices=devices, **options), expected, 1e-9)


@pytest.mark.parametrize("optimizer", [long("adadelta"), long("adagrad"), long("adam")])
@pytest.mark.parametrize("how", ["fsdp", "zero1"])
def test_every_optimizer_has_shares(x64, how, optimizer):
    task, batches = make_task("chain", optimizer=optimizer), make_batches(10, 16)
    found = run_strategy(task, batches, devices=2, **SHARDED | {"shard_params": how})
    assert_same(found, train_reference(task, batches, replicas=1), 1e-9)


@pytest.mark.parametrize(
    "options", [{"shard_params": "fsdp"}, long({"mesh": "data:2,model:2"}), long({"shard_params": "zero1"})]
)
def test_one_float32_update(options):
    task, batches = make_task("chain", np.float32), make_batches(1, 16, np.float32)
    found = run_strategy(task, batches, devices=4, **SHARDED | options)
    assert_same(found, train_reference(task, batches, replicas=1), 1e-5)


def test_no_rules_are_allreduce_with_jit(x64):
    task, batches = make_task("chain"), make_batches(4, 16)
    a = strategy_on(8, task, **SHARDED | {"rules": ""})
    b = strategy_on(8, task, **SHARDED | {"name": "allreduce", "spmd": "jit"})
    assert type(a) is type(b)
    bits = [flatten(run_strategy(task, batches, devices=8, strategy=s).arrays()) for s in (a, b)]
    for name in bits[0]:
        np.testing.assert_array_equal(bits[0][name], bits[1][name], err_msg=name)


@pytest.mark.long
@hypothesis.settings(max_examples=8)
@hypothesis.given(st.data())
def test_any_rules_give_the_same_numbers(data):
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        task, batches = make_task("chain"), make_batches(2, 16)
        shapes = {f"{b}/{n}": s.shape for b, (p, _) in task.model.shapes.items() for n, s in flatten(p).items()}
        rules = []
        for path in data.draw(st.lists(st.sampled_from(sorted(shapes)), unique=True, min_size=1, max_size=6)):
            dims = [d for d, size in enumerate(shapes[path]) if size % 2 == 0]
            if dims:
                dim = data.draw(st.sampled_from(dims))
                rules.append(f"^{path}$ = " + ",".join("model" if d == dim else "-" for d in range(len(shapes[path]))))
        hypothesis.assume(rules)
        found = run_strategy(task, batches, devices=4, **SHARDED | {"mesh": "data:2 model:2", "rules": ";".join(rules)})
        assert_same(found, train_reference(task, batches, replicas=1), 1e-9)
    finally:
        jax.config.update("jax_enable_x64", False)
        jax.config.update("jax_disable_most_optimizations", False)
