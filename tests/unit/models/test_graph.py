"""Chains of blocks: initial arrays by seed and block, whole or in parts, by shared programs; cuts that change nothing.

The cuts of DenseNet and ResNet are held by `transparency/`.
"""

from __future__ import annotations

import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers.families import build
from helpers.processes import ROOT, long
from helpers.reference import make_task

from jaxdist import models
from jaxdist.state import flatten


def test_initialisation_is_a_function_of_seed_and_block():
    small, large = build("densenet", (8, 8, 1), depth=10), build("densenet", (8, 8, 1), depth=16)
    one, _ = small.init_block("dense1_layer1", 5)
    same, _ = large.init_block("dense1_layer1", 5)
    other, _ = small.init_block("dense1_layer1", 6)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one["conv1"]["kernel"], other["conv1"]["kernel"])


@pytest.mark.parametrize(
    ("name", "settings", "block", "path"),
    [
        long("densenet", {"depth": 10, "growth_rate": 6}, "dense2_layer1", "conv2/kernel"),
        long("resnet", {"depth": 8}, "stage2_block1", "conv1/kernel"),
        ("cnn", {}, "dense", "dense/kernel"),
    ],
)
def test_a_part_of_an_initial_array_is_made_without_the_rest(name, settings, block, path):
    model = build(name, (28, 28, 1), **settings)
    whole = flatten(model.init_block(block, 3)[0])[path]
    for select in (lambda a: a[..., 3:5], lambda a: a.reshape(-1)[17:101], lambda a: a.reshape(-1)[5:5]):
        params, stats = model.init_block(block, 3, ("params",), {path: select})
        np.testing.assert_array_equal(flatten(params)[path], select(whole))
        assert stats == {}
        memory = model.init_program(block, ("params",), {path: select}).memory_analysis()
        others = sum(leaf.nbytes for leaf in flatten(params).values())
        assert memory.temp_size_in_bytes + memory.output_size_in_bytes < others + 2048 < others + whole.nbytes


def test_no_process_holds_the_whole_of_an_initial_array_that_is_divided():
    code = """
import resource
import numpy as np
from jaxdist import models
from jaxdist.optim import optimizers
from jaxdist.state import flatten
from jaxdist.task import Task
megabytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
chain = models.build("cnn", inputs=(28, 28, 1), num_outputs=10, settings={}, options={"width": 1024})
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
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    whole, grown = map(float, ended.stdout.split())
    assert whole > 150
    assert grown < 0.7 * whole


def test_a_cut_chain_gives_the_same_output():
    task = make_task("chain", np.float32)
    model, state = task.model, task.init().in_memory()
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    context = models.Context(train=True, positions=np.arange(4, dtype=np.uint32))

    def run(values, names=None):
        made, stats = model.apply(state.params, state.model_state, values, context, seed=1, names=names)
        return made, stats

    given = {"image": x}
    made, stats = run(given)
    whole = made[model.head]
    still = model.apply(state.params, state.model_state, given, context._replace(positions=None), seed=1)[0]["head"]
    assert not np.array_equal(whole, still)  # dropout takes part
    for cut in range(1, len(model.names)):
        first, before = run(given, model.names[:cut])
        last, after = run(first, model.names[cut:])
        np.testing.assert_array_equal(last[model.head], whole)
        jax.tree.map(np.testing.assert_array_equal, before | after, stats)


class Plain(nn.Module):
    features: int = 3

    @nn.compact
    def __call__(self, x, context):
        return nn.Dense(self.features)(x)


class Wide(nn.Module):
    """As wide as JAX's numbers are."""

    @nn.compact
    def __call__(self, x, context):
        return x + self.param("shift", lambda key: jax.random.normal(key, (4,), float))


class Listed(nn.Module):
    """With a field that has no hash."""

    widths: list[int]

    @nn.compact
    def __call__(self, x, context):
        for width in self.widths:
            x = nn.Dense(width)(x)
        return x


def program_of(chain, block, collections=("params", "batch_stats")):
    return chain.init_program(block, collections, {})


def test_equal_blocks_share_a_program_and_no_values():
    blocks = (("a", Plain(4)), ("b", Plain(4)), ("wider", Plain(5)), ("c", Plain(4)))
    chain = models.Graph(blocks, (4,))
    shared = program_of(chain, "a")
    assert program_of(chain, "b") is shared
    assert program_of(models.Graph(blocks[1:2], (4,)), "b") is shared  # of another model too
    assert program_of(chain, "wider") is not shared
    assert program_of(chain, "c") is not shared  # its inputs are the wider ones
    assert program_of(chain, "a", ("params",)) is not shared
    values = [chain.init_block(name, seed)[0]["Dense_0"]["kernel"] for name, seed in (("a", 0), ("b", 0), ("a", 1))]
    assert {value.shape for value in values} == {(4, 4)}
    assert len({value.tobytes() for value in values}) == 3
    np.testing.assert_array_equal(chain.init_block("a", 0)[0]["Dense_0"]["kernel"], values[0])


def test_float64_has_a_program_of_its_own():
    chain = models.Graph((("a", Wide()),), (4,))
    narrow = chain.init_block("a", 0)[0]["shift"]
    jax.config.update("jax_enable_x64", True)
    try:
        wide = chain.init_block("a", 0)[0]["shift"]
    finally:
        jax.config.update("jax_enable_x64", False)
    assert (narrow.dtype, wide.dtype) == (np.float32, np.float64)
    assert chain.init_block("a", 0)[0]["shift"].dtype == np.float32


def test_a_block_without_a_hash_has_values_as_any_other():
    chain = models.Graph((("a", Listed([3, 2])), ("b", Listed([3, 2]))), (4,))
    with pytest.raises(TypeError):
        hash(chain.blocks[0][1])
    (params, stats), other = chain.init_block("a", 0), chain.init_block("b", 0)[0]
    assert {path: leaf.shape for path, leaf in flatten(params).items()} == {
        "Dense_0/kernel": (4, 3),
        "Dense_0/bias": (3,),
        "Dense_1/kernel": (3, 2),
        "Dense_1/bias": (2,),
    }
    assert stats == {} and not np.array_equal(params["Dense_0"]["kernel"], other["Dense_0"]["kernel"])


def test_chains_that_cannot_be_are_refused():
    for blocks in ((), (("a", Plain()), ("b", Plain()), ("a", Plain()))):
        with pytest.raises(ValueError, match="blocks of different names"):
            models.Graph(blocks, (4,))
    one, other = (models.Graph(((name, Plain()),), (4,)) for name in ("a", "b"))
    first, second = (model.init_block(model.names[0], 0)[0]["Dense_0"]["kernel"] for model in (one, other))
    assert not np.array_equal(first, second)  # the block's name is in its key
