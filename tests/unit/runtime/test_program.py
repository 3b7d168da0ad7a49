"""A compiled program's text, against what is known of the operations that it was made of."""

import jax
import jax.numpy as jnp
import pytest
from helpers.native_kernels import load_or_skip

from jaxdist import ops
from jaxdist.ops import backend
from jaxdist.runtime.program import Program, is_kernel_gradient

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(function).lower(*arguments).compile().as_text())


def entry(program):
    """The names of the computation that runs first."""
    return list(program.computations.values())[-1]


def total(program, what):
    return sum(getattr(program, what)(name) for name in entry(program))


def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


def test_flops_of_a_matrix_product_and_of_a_convolution():
    assert total(compiled(lambda a, b: a @ b, (8, 5), (5, 7)), "flops_of") == 2 * 8 * 5 * 7
    found = compiled(conv, (2, 6, 6, 3), (3, 3, 3, 5))
    assert total(found, "flops_of") == 2 * (2 * 6 * 6 * 5) * (3 * 3 * 3)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_flops_of_a_native_convolution_and_its_gradients(strides):
    load_or_skip()
    backend.use("native")
    x, kernel = (2, 6, 6, 3), (3, 3, 3, 5)
    one = 2 * (2 * 6 * 6 * 5 // strides[0]) * (3 * 3 * 3)

    def around(x, kernel):
        return ops.conv(x, kernel, strides, ((1, 1), (1, 1)))

    assert total(compiled(around, x, kernel), "flops_of") == one
    dy = (2, 6 // strides[0], 6, 5)
    for argnum in (0, 1):
        found = compiled(lambda x, kernel, dy, k=argnum: jax.vjp(around, x, kernel)[1](dy)[k], x, kernel, dy)
        assert [found.flops_of(name) for name, of in entry(found).items() if of.opcode == "custom-call"] == [one]


def test_bytes_are_those_of_operands_and_result():
    found = compiled(lambda a, b: a * b + 1, (4, 8), (4, 8))
    (fusion,) = (name for name, one in entry(found).items() if one.opcode == "fusion")
    assert found.bytes_of(fusion) == 3 * 4 * 8 * 4
    assert found.elements_of(fusion) == 32
    assert {one.opcode for one in found.inside(fusion)} >= {"multiply", "add"}


def test_a_loop_contains_its_body_and_a_reduction_only_itself():
    def function(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ x), x).sum()

    found = compiled(function, (4, 4))
    (loop,) = (n for inside in found.computations.values() for n, one in inside.items() if one.opcode == "while")
    (whole,) = (name for name, one in entry(found).items() if one.opcode == "call")
    for name in (loop, whole):
        assert "dot" in {one.opcode for one in found.inside(name)}
    assert found.flops_of(loop) == 2 * 4**3  # of one round
    assert loop in found and "nothing" not in found


@pytest.mark.parametrize(("by", "is_kernel"), [(0, False), (1, True)])
def test_the_two_gradients_of_a_convolution_are_told_apart(by, is_kernel):
    """Both are called `conv_general_dilated`."""
    gradient = jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel) ** 2), by)
    found = compiled(gradient, (2, 6, 6, 3), (3, 3, 3, 5))
    convolutions = {one.name for one in entry(found).values() if one.opcode == "convolution"}
    backward = [name for name in convolutions if "transpose(" in found.origin_of(name)]
    assert len(convolutions) == 2
    assert [is_kernel_gradient(found[name]) for name in backward] == [is_kernel]


def test_text_that_is_no_program_has_no_instructions():
    assert not Program("nothing of the kind").computations
