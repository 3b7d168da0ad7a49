"""What a model must be: each fault is refused by the block's name, with what was expected and what was found."""

from __future__ import annotations

import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdist import models
from jaxdist.models import BatchNorm, Dropout, Graph, contract

CLASSES = 4


class Block(nn.Module):
    """`wrong` names what it does wrong."""

    wrong: str = ""

    @nn.compact
    def __call__(self, x, context):
        x = nn.Conv(3, (3, 3))(x)
        x = Dropout(0.1)(BatchNorm()(x, context), context)
        if self.wrong == "parameter":
            x = x + self.param("count", lambda _: jnp.zeros((), jnp.int32))
        if self.wrong == "bfloat16":
            x = nn.Dense(3, param_dtype=jnp.bfloat16)(x)
        if self.wrong == "empty parameter":
            self.param("none", nn.initializers.zeros, (0, 3))
        if self.wrong == "statistic":
            self.variable("batch_stats", "seen", lambda: jnp.zeros((), jnp.int32))
        if self.wrong == "Flax's dropout":
            x = nn.Dropout(0.5)(x, deterministic=not context.train)
        if self.wrong == "training shape" and context.train:
            x = x[..., :2]
        if self.wrong == "error":
            raise KeyError("colour")
        return {
            "tuple": (x, x),
            "dict": {"logits": x},
            "None": None,
            "mean": x.mean(0, keepdims=True),
            "scalar": x.mean(),
            "transposed": x.transpose(1, 0, 2, 3),
            "integers": x.astype(jnp.int32),
        }.get(self.wrong, x)


class Head(nn.Module):
    @nn.compact
    def __call__(self, x, context):
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


def chain(*blocks) -> Graph:
    return Graph(tuple((f"block{k}", block) for k, block in enumerate(blocks)), (8, 8, 1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("tuple", "block 'block0' must return one array, and returns a tuple"),
        ("dict", "must return one array, and returns a dict"),
        ("None", "must return one array, and returns a NoneType"),
        ("mean", r"must return as many examples as it is given, and returns \[1, 8, 8, 3\] for a batch of 3"),
        ("scalar", r"as many examples as it is given, and returns \[\]"),
        ("transposed", r"returns \[8, 3, 8, 3\]"),
        ("integers", "must return floating-point numbers, and returns int32"),
        ("parameter", "params/block0/count is int32, and would be trained as float32: make it float32"),
        ("bfloat16", "params/block0/Dense_0/kernel is bfloat16|params/block0/Dense_0/bias is bfloat16"),
        ("empty parameter", r"params/block0/none has the shape \[0, 3\], without elements"),
        ("statistic", "batch_stats/block0/seen is int32"),
        ("Flax's dropout", r"block 'block0' fails: take Dropout from jaxdist\.models"),
        ("training shape", r"returns \[3, 8, 8, 2\] in training and \[3, 8, 8, 3\] in evaluation"),
        ("error", "block 'block0' fails: KeyError: 'colour'"),
    ],
)
def test_blocks_that_cannot_be_trained_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        contract.check(chain(Block(wrong), Head()), np.float32)


def test_a_good_model_passes_and_its_logits_are_one_number_a_class():
    good = chain(Block(), Head())
    contract.check(good, np.float32)
    contract.check_outputs(good, (CLASSES,), "as a test needs them")
    with pytest.raises(ValueError, match=r"the last block 'block1' must return \[batch, 5\].* returns \[batch, 4\]"):
        contract.check_outputs(good, (5,), "")
    with pytest.raises(ValueError, match=r"'block0' must return \[batch, 4\].* returns \[batch, 8, 8, 3\]"):
        contract.check_outputs(chain(Block()), (CLASSES,), "")


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"a": Head()}, "must be a list of .*, and is a dict"),
        ([Head()], "entry 0 of its list must be"),
        ([("a", Head()), ("b", Head(), 3)], "the sources of block 'b' must be names"),
        ([(3, Head())], "name of entry 0 must be a word"),
        ([("a/b", Head())], "without '/'"),
        ([("a", jnp.tanh)], "block 'a' must be a Flax module"),
        ([("a", Head)], "block 'a' must be a Flax module, and is a type"),
    ],
)
def test_what_is_no_list_of_blocks(blocks, words):
    with pytest.raises(ValueError, match=words):
        contract.check_blocks(blocks)


def graph(*blocks):
    return models.build("helpers_of_test_contract:build", inputs={"a": LIKE, "b": LIKE}, num_outputs=3, settings={},
                        options={"blocks": list(blocks)})  # fmt: skip


LIKE = jax.ShapeDtypeStruct((4,), jnp.float32)


@pytest.fixture
def _builder(monkeypatch):
    module = types.ModuleType("helpers_of_test_contract")
    module.build = lambda num_outputs, blocks: blocks
    monkeypatch.setitem(sys.modules, module.__name__, module)


def block(name, *sources):
    return (name, nn.Dense(3), sources) if sources else (name, nn.Dense(3))


@pytest.mark.usefixtures("_builder")
def test_blocks_are_put_after_their_sources():
    found = graph(block("head", "left", "right"), block("left", "a"), block("deep", "right"), block("right", "b"),
                  block("end", "head", "deep"))  # fmt: skip
    assert found.names == ("left", "right", "head", "deep", "end") and found.head == "end" and not found.is_chain
    assert found.users_of["right"] == ("head", "deep")
    assert found.between(("right", "deep")) == ((), ("right", "deep"))
    assert found.between(("head", "end")) == (("left", "right", "deep"), ())


@pytest.mark.usefixtures("_builder")
@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([("a", block("a")[1]), ("y", block("y")[1])], "'a' is a block and an input"),  # of a chain too
        ([block("x", "a"), block("y", "x", "z"), block("z", "y", "b")], "go round in a circle: y, z"),
        ([block("x", "a"), block("y", "x", "c"), block("z", "b")], "'y' asks for 'c', and there is no such block"),
        ([block("left", "a"), block("y", "lef", "b")], "'y' asks for 'lef', .*nearest: 'left'"),
        ([block("x", "a"), block("y", "b")], "nothing follows the blocks 'x' and 'y': one alone, the head"),
        ([block("x", "x", "a"), block("y", "x", "b")], "'x' asks for 'x'"),
        ([block("a", "b"), block("y", "a", "b")], "'a' is a block and an input"),
        ([block("x", "a"), block("y")], "no block uses the input 'b'"),
        ([block("x", "a", "a"), block("y", "x", "b")], r"sources \('a', 'a'\): it needs at least one, and each once"),
        ([block("x", "a"), block("x", "b")], "two blocks are called 'x'"),
    ],
)
def test_graphs_that_cannot_be(blocks, words):
    with pytest.raises(ValueError, match=words):
        graph(*blocks)
