"""What instructions are called: on names as JAX writes them, and on the program of a whole training step."""

import jax
import jax.numpy as jnp
import pytest

from jaxdist import models
from jaxdist.ops import kinds
from jaxdist.optim import optimizers
from jaxdist.profiling.naming import COPY, ELEMENTWISE, WRAPPERS, layer_of, name_of, tokens_of
from jaxdist.runtime.program import Program
from jaxdist.task import Task
from jaxdist.task.update import update

BLOCKS = frozenset({"stem", "dense1_layer2", "head"})


@pytest.mark.parametrize(
    ("op_name", "layer"),
    [
        ("jit(f)/transpose(jvp(dense1_layer2))/DenseLayer/conv2/cond/branch_0_fun/x/while", "dense1_layer2/conv2"),
        ("jit(f)/jvp(dense1_layer2)/DenseLayer/norm1/BatchNorm forward/reduce_sum", "dense1_layer2/norm1"),
        ("jit(f)/jvp(head)/Head/classifier/dense/dot_general", "head/classifier/dense"),
        ("jit(f)/jvp(head)/concatenate", "head"),
        ("jit(f)/shard_map/stem/Stem/conv/mul", "stem/conv"),
        ("jit(f)/jvp(other)/Head/dense/dot_general", ""),
        ("", ""),
    ],
)
def test_the_layer_is_the_block_and_the_layers_in_it(op_name, layer):
    assert layer_of(tokens_of(op_name), BLOCKS) == layer


def test_a_stroke_in_brackets_does_not_part():
    assert tokens_of("jit(f)/jvp(a/b)/c") == ["jit(f)", "jvp(a/b)", "c"]


@pytest.fixture(scope="module")
def named():
    """(name, flops, bytes) of every instruction of a training step that takes time."""
    chain = models.build(
        "helpers.tiny_chain:build", inputs=(8, 8, 1), num_outputs=10, settings={}, options={"dropout": 0.2}
    )
    task = Task(chain, optimizers.build("sgd"), lambda seen: 0.1)
    arrays = jax.tree.map(jnp.asarray, task.init().arrays())
    batch = {
        "inputs": {"image": jnp.ones((4, 8, 8, 1))},
        "target": jnp.zeros(4, jnp.int32),
        "position": jnp.arange(4, dtype=jnp.uint32),
    }
    text = jax.jit(lambda *of: update(task, *of)[0]).lower(arrays, batch, jnp.float32(0.1)).compile().as_text()
    program, blocks = Program(text), frozenset(task.model.names)
    skipped = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", *WRAPPERS)
    entry = list(program.computations.values())[-1]
    return [name_of(program, n, blocks) for n, one in entry.items() if one.opcode not in skipped], program, blocks


def test_every_kind_of_a_step_is_named_with_its_layer(named):
    found = {(name.kind, name.layer) for name in named[0]}
    for layer in ("stem/conv", "middle/conv", "last/conv"):
        assert (kinds.CONVOLUTION_FORWARD, layer) in found
    assert (kinds.CONVOLUTION_INPUT_GRADIENT, "last/conv") in found
    assert (kinds.CONVOLUTION_INPUT_GRADIENT, "stem/conv") not in found  # nobody wants the gradient of an image
    for layer in ("stem/norm", "middle/norm", "last/norm"):
        assert {(kinds.BATCH_NORM_FORWARD, layer), (kinds.BATCH_NORM_BACKWARD, layer)} <= found
    assert {("dropout", "middle/dropout"), ("dropout backward", "middle/dropout")} <= found
    assert (kinds.MATRIX_PRODUCT, "head/dense") in found
    assert any(kind == kinds.OPTIMIZER_UPDATE for kind, _ in found)


def test_kernel_gradients_are_named_inside_their_loops(named):
    _, program, blocks = named
    everything = {name_of(program, n, blocks)[:2] for inside in program.computations.values() for n in inside}
    assert {(kinds.CONVOLUTION_KERNEL_GRADIENT, f"{block}/conv") for block in ("stem", "middle", "last")} <= everything


def test_directions_are_known_where_a_kind_is(named):
    for name in named[0]:
        if name.kind in (kinds.CONVOLUTION_FORWARD, kinds.BATCH_NORM_FORWARD):
            assert name.direction == "forward"
        if name.kind in (kinds.CONVOLUTION_INPUT_GRADIENT, kinds.BATCH_NORM_BACKWARD, "dropout backward"):
            assert name.direction == "backward"


def test_a_fusion_is_one_row_named_by_all_that_it_computes():
    text = """HloModule m

%fused (a: f32[64,8], b: f32[8]) -> f32[64,8] {
  %a = f32[64,8]{1,0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %scale = f32[8]{0} multiply(%b, %b), metadata={op_name="jit(f)/jvp(stem)/BatchNorm forward/mul"}
  %wide = f32[64,8]{1,0} broadcast(%scale), dimensions={1}
  %drop = f32[64,8]{1,0} multiply(%a, %wide), metadata={op_name="jit(f)/jvp(stem)/Layer/d/dropout/mul"}
  ROOT %relu = f32[64,8]{1,0} maximum(%drop, %a), metadata={op_name="jit(f)/jvp(stem)/Layer/ReLU/max"}
}

ENTRY %main (x: f32[64,8], y: f32[8]) -> f32[64,8] {
  %x = f32[64,8]{1,0} parameter(0)
  %y = f32[8]{0} parameter(1)
  ROOT %fusion = f32[64,8]{1,0} fusion(%x, %y), kind=kLoop, calls=%fused
}
"""
    name = name_of(Program(text), "fusion", frozenset({"stem"}))
    assert name.kind == "dropout + ReLU"  # a factor of a few channels is not what it is called after
    assert name.layer == "stem/d + stem" and name.direction == "forward"


def test_what_nobody_named_is_told_by_its_opcode():
    text = """HloModule m

ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4]{1,0} parameter(0)
  %dot = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="f/dot_general"}
  %all-reduce.1 = f32[4,4]{1,0} all-reduce(%dot), replica_groups={{0,1}}, to_apply=%add, metadata={op_name="f/psum"}
  %copy = f32[4,4]{0,1} copy(%all-reduce.1)
  ROOT %exp = f32[4,4]{1,0} exponential(%copy), metadata={op_name="f/exp"}
}
"""  # noqa: E501
    program = Program(text)
    names = {n: name_of(program, n, frozenset()).kind for n in ("dot", "all-reduce.1", "copy", "exp")}
    assert names == {"dot": "matrix product", "all-reduce.1": "all-reduce", "copy": COPY, "exp": ELEMENTWISE}
