"""State divided over a mesh, on fake devices: the numbers of one device, and the bytes that were promised."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.in_process import run_strategy, strategy_on
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError
from jaxdist.parallel.local_box import Box
from jaxdist.state import flatten, part_shape

SETTINGS = default_config().strategy.to_dict() | {"name": "model_parallel", "shard_threshold": 16}


@pytest.mark.parametrize(
    ("model", "devices", "mesh"),
    [
        long("densenet", 1, "data:1,model:1"),
        long("densenet", 2, "data:2,model:1"),
        long("densenet", 2, "data:1,model:2"),
        ("densenet", 4, "data:2,model:2"),
        long("densenet", 4, "data:1,model:4"),
        long("densenet", 8, "data:4,model:2"),
        long("resnet", 1, "data:1,model:1"),
        long("resnet", 2, "data:2,model:1"),
        long("resnet", 2, "data:1,model:2"),
        long("resnet", 4, "data:2,model:2"),
        long("resnet", 4, "model:4,data:1"),
        ("resnet", 8, "data:4,model:2"),
        long("resnet_v2", 4, "data:2,model:2"),
        long("resnet_v2", 4, "model:2,data:2"),
    ],
)
def test_a_mesh_equals_the_single_device_run(x64, model, devices, mesh):
    task, batches = make_task(model), make_batches(10, 16)
    expected = train_reference(task, batches, replicas=1)
    assert_same(run_strategy(task, batches, devices=devices, **SETTINGS | {"mesh": mesh}), expected, 1e-9)


@pytest.mark.parametrize(
    ("model", "devices", "how"),
    [
        ("densenet", 3, "fsdp"),
        ("resnet", 2, "zero1"),
        long("densenet", 8, "fsdp"),
        long("densenet", 1, "fsdp"),
        long("resnet", 2, "fsdp"),
        long("resnet_v2", 4, "fsdp"),
        long("densenet", 4, "zero1"),
        long("resnet_v2", 3, "zero1"),
    ],
)
def test_shares_equal_the_single_device_run(x64, model, devices, how):
    task, batches = make_task(model), make_batches(10, 24)
    expected = train_reference(task, batches, replicas=1)
    assert_same(run_strategy(task, batches, devices=devices, **SETTINGS | {"shard_params": how}), expected, 1e-9)


@pytest.mark.parametrize("how", ["fsdp", long("zero1")])
def test_batch_norm_may_be_per_replica(x64, how):
    task, batches = make_task("densenet"), make_batches(10, 16)
    found = run_strategy(task, batches, devices=4, **SETTINGS | {"shard_params": how, "sync_batch_norm": False})
    assert_same(found, train_reference(task, batches, replicas=4), 1e-9)


@pytest.mark.parametrize("optimizer", [long("adadelta"), long("adagrad"), long("adam")])
@pytest.mark.parametrize("how", ["fsdp", "zero1"])
def test_every_optimizer_has_shares(x64, how, optimizer):
    task, batches = make_task("resnet", optimizer=optimizer), make_batches(10, 16)
    found = run_strategy(task, batches, devices=2, **SETTINGS | {"shard_params": how})
    assert_same(found, train_reference(task, batches, replicas=1), 1e-9)


@pytest.mark.parametrize(
    "options", [long({"mesh": "data:2,model:2"}), {"shard_params": "fsdp"}, long({"shard_params": "zero1"})]
)
def test_one_float32_update(options):
    task, batches = make_task("densenet", np.float32), make_batches(1, 16, np.float32)
    found = run_strategy(task, batches, devices=4, **SETTINGS | options)
    assert_same(found, train_reference(task, batches, replicas=1), 1e-5)


def test_no_rules_are_allreduce_with_jit(x64):
    task, batches = make_task("resnet"), make_batches(4, 16)
    a = strategy_on(2, task, **SETTINGS | {"rules": ""})
    b = strategy_on(2, task, **SETTINGS | {"name": "allreduce", "spmd": "jit"})
    assert type(a) is type(b)
    bits = [flatten(run_strategy(task, batches, devices=2, strategy=s).arrays()) for s in (a, b)]
    for name in bits[0]:
        np.testing.assert_array_equal(bits[0][name], bits[1][name], err_msg=name)


@pytest.mark.long
@hypothesis.settings(max_examples=8)
@hypothesis.given(st.data())
def test_any_rules_give_the_same_numbers(data):
    jax.config.update("jax_enable_x64", True)
    try:
        task, batches = make_task("resnet"), make_batches(2, 16)
        shapes = {f"{b}/{n}": s.shape for b, (p, _) in task.chain.shapes.items() for n, s in flatten(p).items()}
        rules = []
        for path in data.draw(st.lists(st.sampled_from(sorted(shapes)), unique=True, min_size=1, max_size=6)):
            dims = [d for d, size in enumerate(shapes[path]) if size % 2 == 0]
            if dims:
                dim = data.draw(st.sampled_from(dims))
                rules.append(f"^{path}$ = " + ",".join("model" if d == dim else "-" for d in range(len(shapes[path]))))
        hypothesis.assume(rules)
        found = run_strategy(
            task, batches, devices=4, **SETTINGS | {"mesh": "data:2 model:2", "rules": ";".join(rules)}
        )
        assert_same(found, train_reference(task, batches, replicas=1), 1e-9)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_rules_of_resnet_cost_two_all_reduces_a_block():
    task = make_task("resnet", np.float32)
    strategy = strategy_on(2, task, **SETTINGS | {"mesh": "model:2"})
    run_strategy(task, make_batches(1, 16, np.float32), devices=2, strategy=strategy)
    found = strategy.collectives()
    assert found.keys() == {"all-reduce"} and found["all-reduce"]["count"] <= 2 * 3 + 1, found


@pytest.mark.parametrize("devices", [3, long(8)])
@pytest.mark.parametrize("how", ["fsdp", "zero1"])
def test_a_device_holds_its_share(how, devices):
    task = make_task("densenet", np.float32)
    strategy = strategy_on(devices, task, **SETTINGS | {"shard_params": how})
    state, _ = strategy.train_step(
        strategy.import_state(task.init()), strategy.place(make_batches(1, 24, np.float32)[0])
    )
    canonical = flatten(task.init().arrays())
    for tree in ("params", "opt_state"):
        leaves = [leaf for name, leaf in canonical.items() if name.startswith(tree)]
        small = sum(leaf.nbytes for leaf in leaves if np.prod(leaf.shape) < SETTINGS["shard_threshold"])
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


class OfProcess:
    """A sharding as a process sees it that has only some of the devices."""

    def __init__(self, sharding, devices) -> None:
        self._sharding, self._devices = sharding, devices

    def addressable_devices_indices_map(self, shape):
        every = self._sharding.devices_indices_map(shape)
        return {device: every[device] for device in self._devices}


@pytest.mark.parametrize("axes", ["data:2,model:4", "model:4,data:2", "data:8", "model:8"])
@pytest.mark.parametrize("each", [1, 2, 4])
@pytest.mark.parametrize("partition", [("model", None), (None, "data"), ("data", "model"), ()])
def test_a_process_holds_a_box(axes, each, partition):
    sizes = {axis: int(size) for axis, size in (part.split(":") for part in axes.split(","))}
    partition = tuple(axis if axis in sizes else None for axis in partition)
    mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(jax.sharding.AxisType.Auto,) * len(sizes))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*partition))
    whole = np.arange(16 * 8).reshape(16, 8)
    for start in range(0, 8, each):
        devices = mesh.devices.flat[start : start + each]
        box = Box.held_here(OfProcess(sharding, devices), whole.shape)
        held = whole[box.index]
        assert held.shape == box.shape
        for index in OfProcess(sharding, devices).addressable_devices_indices_map(whole.shape).values():
            np.testing.assert_array_equal(held[Box.of(index, whole.shape).within(box)], whole[index])
        if each == 1:
            assert held.size * int(np.prod([sizes[axis] for axis in partition if axis])) == whole.size


@pytest.mark.parametrize("options", [{"mesh": "model:2"}, {"shard_params": "fsdp"}, {"shard_params": "zero1"}])
def test_of_divided_arrays_parts_alone_are_asked_for(options, monkeypatch):
    """On a process of one device of two: stopped where it would put them on devices that it does not have."""
    asked = {}

    class Enough(Exception):
        pass

    def cut(parts):
        asked.update({path: part_shape(leaves[path], select) for path, select in parts.items()})
        raise Enough

    task = make_task("resnet", np.float32)
    leaves = flatten(task.init().arrays())
    strategy = strategy_on(2, task, **SETTINGS | options)
    here = jax.devices()[1:2]
    monkeypatch.setattr(
        jax.sharding.NamedSharding,
        "addressable_devices_indices_map",
        lambda self, shape: {d: index for d, index in self.devices_indices_map(shape).items() if d in here},
    )
    with pytest.raises(Enough):
        strategy.import_state(dataclasses.replace(task.init(), cut_by=cut))
    trees = {path.split("/")[0] for path in asked}
    assert "opt_state" in trees and ("params" in trees) == (options.get("shard_params") != "zero1")
    size = lambda path, shape: (int(np.prod(shape)), int(np.prod(leaves[path].shape)))  # noqa: E731
    part, whole = np.sum([size(path, shape) for path, shape in asked.items()], axis=0)
    assert 0.45 * whole < part < 0.55 * whole
    assert whole > 0.9 * sum(np.prod(leaf.shape) for path, leaf in leaves.items() if path.split("/")[0] in trees) * (
        0.5 if "mesh" in options else 1
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gathered_parameters_are_not_kept_for_the_backward_pass(dtype):
    task = dataclasses.replace(make_task("densenet", np.float32), compute_dtype=jnp.dtype(dtype))
    strategy = strategy_on(2, task, **SETTINGS | {"shard_params": "fsdp"})
    strategy.prepare(strategy.import_state(task.init()), strategy.place(make_batches(1, 16, np.float32)[0]))
    tensors = [t for kinds in strategy._layout.tensors.values() for ts in kinds.values() for t in ts]
    gathered = strategy.collectives()["all-gather"]["bytes"]
    # Twice, but for the last block, whose backward pass follows at once.
    assert gathered >= 2 * 4 * sum(t.size for t in tensors if not t.name.startswith("classifier"))


def test_divided_channels_are_divided():
    task = make_task("resnet", np.float32)
    strategy = strategy_on(2, task, **SETTINGS | {"mesh": "model:2"})
    state = strategy.import_state(task.init())
    kernel = state.arrays["params"]["stage1_block1"]["conv1"]["kernel"]
    slot = state.arrays["opt_state"]["trace"]["stage1_block1"]["conv1"]["kernel"]
    for array in (kernel, slot):
        assert [s.data.shape for s in array.addressable_shards] == [(3, 3, 4, 2)] * 2


@pytest.mark.parametrize(
    ("devices", "options", "words"),
    [
        (4, {"mesh": "data:3,model:2"}, "3 x 2 = 6 devices, and there are 4"),
        (4, {"mesh": "rows:4"}, "axis 'rows'; there are data and model"),
        (4, {"mesh": "data:2,model:2", "rules": "nothing/like/it = model"}, "matches nothing"),
        (
            4,
            {"mesh": "data:2,model:2", "rules": "kernel = -,-,-,pipe"},
            "the axis 'pipe', and the mesh has data, model",
        ),
        (
            3,
            {"mesh": "model:3", "rules": "block1/conv1/kernel = -,-,-,model"},
            "which the axis model:3 does not divide",
        ),
        (2, {"mesh": "model:2", "rules": ""}, "nothing lies along it"),
        (2, {"mesh": "model:2", "rules": "norm1/scale = data"}, "nothing lies along it"),
        (4, {"mesh": "data:2,model:2", "shard_params": "fsdp"}, "over the data axis alone"),
        (2, {"sync_batch_norm": False}, "BatchNorm over the global batch"),
        (3, {}, "not divisible by the 3 part"),
        (2, {"accumulate": 2}, "takes it whole"),
        (2, {"memory_limit": 1e-5}, "memory_limit=1e-05 GB"),
    ],
)
def test_bad_input(devices, options, words):
    with pytest.raises(UsageError, match=words):
        strategies.check(
            SETTINGS | options,
            make_task("resnet", np.float32),
            global_batch_size=16,
            num_processes=1,
            num_devices=devices,
        )
