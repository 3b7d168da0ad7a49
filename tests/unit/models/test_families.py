"""Parameter counts from a derivation, shapes, and initialisation."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.processes import ROOT
from helpers.reference import make_task

from jaxdist import models
from jaxdist.state import LazyArray, flatten


def chain(name, shape, **settings):
    return models.build(name, input_shape=shape, num_classes=10, settings=settings, options={})


def count(model) -> int:
    return sum(int(np.prod(x.shape)) for params, _ in model.shapes.values() for x in jax.tree.leaves(params))


def densenet_bc_params(depth: int, k: int, reduction: float, inputs: int) -> int:
    """Written out from the paper: kernels have no biases, BatchNorm has two parameters a channel."""
    layers = (depth - 4) // 6
    channels = 2 * k
    total = 9 * inputs * channels  # stem
    for block in range(3):
        for _ in range(layers):
            total += 2 * channels + channels * 4 * k  # norm, 1x1
            total += 2 * 4 * k + 9 * 4 * k * k  # norm, 3x3
            channels += k
        if block < 2:
            out = int(channels * reduction)
            total += 2 * channels + channels * out
            channels = out
    return total + 2 * channels + channels * 10 + 10


def test_densenet_bc_40_12_has_175690_parameters():
    assert densenet_bc_params(40, 12, 0.5, 1) == 175_690
    assert count(chain("densenet", (28, 28, 1), depth=40)) == 175_690


@pytest.mark.parametrize(("depth", "k"), [(22, 12), (40, 24), (100, 12)])
def test_densenet_bc_counts(depth, k):
    assert count(chain("densenet", (32, 32, 3), depth=depth, growth_rate=k)) == densenet_bc_params(depth, k, 0.5, 3)


def test_plain_densenet_40_12_has_the_papers_million():
    channels, total = 16, 9 * 3 * 16
    for block in range(3):
        for _ in range(12):
            total += 2 * channels + 9 * channels * 12
            channels += 12
        if block < 2:
            total += 2 * channels + channels * channels
    total += 2 * channels + channels * 10 + 10
    assert total == 1_019_722  # the paper's table says 1.0M
    assert count(chain("densenet", (32, 32, 3), depth=40, bottleneck=False, reduction=1.0)) == total


@pytest.mark.parametrize("depth", [20, 32, 44, 50, 56, 110])
def test_resnet_v1_counts(depth):
    n = (depth - 2) // 6
    total, before = 9 * 3 * 16 + 2 * 16, 16
    for width in (16, 32, 64):
        for _ in range(n):
            total += 9 * before * width + 9 * width * width + 4 * width
            before = width
    assert count(chain("resnet", (32, 32, 3), depth=depth)) == total + 64 * 10 + 10


@pytest.mark.parametrize("depth", [20, 29, 47, 56, 110])
def test_resnet_v2_counts(depth):
    n = (depth - 2) // 9
    total, before = 9 * 3 * 16, 16
    for width in (64, 128, 256):
        inner = width // 4
        for k in range(n):
            total += 2 * before + before * inner + 2 * inner + 9 * inner * inner + 2 * inner + inner * width
            total += before * width if k == 0 else 0
            before = width
    assert count(chain("resnet", (32, 32, 3), depth=depth, version=2)) == total + 2 * 256 + 256 * 10 + 10


def test_cnn_count():
    assert count(chain("cnn", (28, 28, 1))) == (9 * 32 + 32) + (9 * 32 * 64 + 64) + (9216 * 128 + 128) + 1290


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("resnet", {"depth": 51}, "Nearest: [50, 56]"),
        ("resnet", {"depth": 50, "version": 2}, "9n+2"),
        ("densenet", {"depth": 41}, "6n+4"),
        ("densenet", {"depth": 40, "reduction": 0.0}, "(0, 1]"),
        ("densenet", {"depth": 40, "dropout": 1.0}, "[0, 1)"),
    ],
)
def test_impossible_shapes_are_refused_with_numbers(name, settings, words):
    with pytest.raises(ValueError) as e:
        chain(name, (32, 32, 3), **settings)
    assert words in str(e.value)


def test_initialisation_is_a_function_of_seed_and_block():
    small, large = chain("densenet", (8, 8, 1), depth=10), chain("densenet", (8, 8, 1), depth=16)
    one, _ = small.init_block("dense1_layer1", 5)
    same, _ = large.init_block("dense1_layer1", 5)
    other, _ = small.init_block("dense1_layer1", 6)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one["conv1"]["kernel"], other["conv1"]["kernel"])


@pytest.mark.parametrize(
    ("name", "settings", "block", "path"),
    [
        ("densenet", {"depth": 10, "growth_rate": 6}, "dense2_layer1", "conv2/kernel"),
        ("resnet", {"depth": 8}, "stage2_block1", "conv1/kernel"),
        ("cnn", {}, "dense", "dense/kernel"),
    ],
)
def test_a_part_of_an_initial_array_is_made_without_the_rest(name, settings, block, path):
    model = chain(name, (28, 28, 1), **settings)
    whole = flatten(model.init_block(block, 3)[0])[path]
    for select in (lambda a: a[..., 3:5], lambda a: a.reshape(-1)[17:101], lambda a: a.reshape(-1)[5:5]):
        params, stats = model.init_block(block, 3, ("params",), {path: select})
        np.testing.assert_array_equal(flatten(params)[path], select(whole))
        assert stats == {}
        memory = model.init_program(block, ("params",), {path: select}).memory_analysis()
        others = sum(leaf.nbytes for leaf in flatten(params).values())
        assert memory.temp_size_in_bytes + memory.output_size_in_bytes < others + 2048 < others + whole.nbytes


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_initial_state_is_cut_as_any_other(optimizer):
    task = make_task("densenet", np.float32, optimizer)
    parts = {
        path: (lambda a: a[..., 1:3]) if path.endswith("mean") else (lambda a: a.reshape(-1)[1:-2])
        for path, leaf in flatten(task.init().arrays()).items()
        if path.endswith(("conv1/kernel", "norm1/mean"))
    }
    assert {path.split("/")[0] for path in parts} == {"params", "model_state", "opt_state"}
    cut, plain = task.init().cut(parts), dataclasses.replace(task.init(), cut_by=None).cut(parts)
    found, wanted = flatten(cut.arrays()), flatten(plain.arrays())
    assert found.keys() == wanted.keys()
    for path, leaf in found.items():
        assert (leaf.shape, leaf.dtype) == (wanted[path].shape, wanted[path].dtype), path
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(wanted[path]), err_msg=path)
    for state in (task.init(), plain):
        with pytest.raises(KeyError):
            state.cut({"params/stem/conv/colonel": lambda a: a})


def test_an_empty_part_asks_for_nothing():
    leaf = LazyArray((8, 3), np.dtype(np.float32), lambda: pytest.fail("was asked for"))
    assert np.asarray(LazyArray.part(leaf, lambda a: a[8:])).shape == (0, 3)


def test_no_process_holds_the_whole_of_an_initial_array_that_is_divided():
    code = """
import resource
import numpy as np
from jaxdist import models
from jaxdist.optim import optimizers
from jaxdist.state import flatten
from jaxdist.task import Task
megabytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
chain = models.build("cnn", input_shape=(28, 28, 1), num_classes=10, settings={}, options={"width": 1024})
task = Task(chain, optimizers.build("sgd"), lambda seen: 0.1)
make = lambda path, select: np.asarray(flatten(task.init({path: select}).arrays())[path])
paths = ["params/dense/dense/kernel", "opt_state/trace/dense/dense/kernel"]
make(paths[0], lambda a: a[:1])  # what JAX itself needs
before = megabytes()
for path in paths:
    half = make(path, lambda a: a[:, :64])
    del half
print(flatten(task.init().params)["dense/dense/kernel"].nbytes / 1e6, megabytes() - before)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    whole, grown = map(float, ended.stdout.split())
    assert whole > 150
    assert grown < 0.7 * whole


def test_he_initialisation_has_the_papers_variance():
    params, _ = chain("resnet", (32, 32, 3), depth=20).init_block("stage3_block2", 0)
    kernel = params["conv1"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)


def test_a_cut_chain_gives_the_same_output():
    model = chain("densenet", (8, 8, 1), depth=10, growth_rate=4, dropout=0.3)
    made = {n: model.init_block(n, 0) for n in model.names}
    params = {n: p for n, (p, _) in made.items() if p}
    stats = {n: s for n, (_, s) in made.items() if s}
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    context = models.Context(train=True, positions=np.arange(4, dtype=np.uint32))
    whole, _ = model.apply(params, stats, x, context, seed=1)
    for cut in range(1, len(model.names)):
        y, _ = model.apply(params, stats, x, context, seed=1, names=model.names[:cut])
        y, _ = model.apply(params, stats, y, context, seed=1, names=model.names[cut:])
        np.testing.assert_array_equal(y, whole)


def test_dropout_bits_follow_the_position_and_nothing_else():
    class Probe(models.chain.nn.Module):
        @models.chain.nn.compact
        def __call__(self, x, context):
            return models.Dropout(0.25)(x, context)

    model = models.Chain((("probe", Probe()),), (1000,))
    x = np.ones((8, 1000), np.float32)

    def drop(positions, seed=0):
        context = models.Context(train=True, positions=np.asarray(positions, np.uint32))
        return np.asarray(model.apply({}, {}, x[: len(positions)], context, seed=seed)[0])

    whole = drop(range(100, 108))
    np.testing.assert_array_equal(whole[3:5], drop([103, 104]))
    assert not np.array_equal(whole, drop(range(100, 108), seed=1))
    kept = drop(range(8)) != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.02)
    assert abs(np.corrcoef(kept[0], kept[1])[0, 1]) < 0.1
    np.testing.assert_allclose(whole[whole != 0], 1 / 0.75, rtol=1e-6)


def test_initial_bits_do_not_depend_on_x64():
    with jax.enable_x64(True):
        wide = chain("cnn", (8, 8, 1)).init_block("conv2", 3)
    jax.tree.map(np.testing.assert_array_equal, wide, chain("cnn", (8, 8, 1)).init_block("conv2", 3))


@pytest.mark.parametrize(("name", "shape"), [("densenet", (784,)), ("cnn", (28, 28)), ("cnn", (4, 4, 1))])
def test_examples_that_are_no_images_or_too_small_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"a convolution takes images|too small"):
        chain(name, shape).shapes  # noqa: B018
