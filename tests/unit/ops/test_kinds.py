"""Kinds are in a program's metadata alone, and `ops.relu` (`ops/relu.py`) is JAX's under its own name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdist import ops
from jaxdist.ops.kinds import CONVOLUTION_FORWARD, LOSS


def test_a_kind_changes_the_metadata_of_a_program_and_nothing_else():
    def plain(x):
        return jnp.tanh(x) * 2

    def named(x):
        with ops.kind(LOSS):
            return jnp.tanh(x) * 2

    texts = [jax.jit(f).lower(jnp.ones(3)).as_text().replace(f.__name__, "") for f in (plain, named)]
    assert texts[0] == texts[1]
    assert f"{LOSS}/tanh" in jax.jit(named).lower(jnp.ones(3)).compile().as_text()


def test_an_unknown_kind_is_refused():
    with pytest.raises(AssertionError, match="convolutoin"):
        ops.kind("convolutoin")


def test_a_convolution_says_what_it_is():
    def function(x, kernel):
        return ops.conv(x, kernel, (1, 1), ((1, 1), (1, 1)))

    text = jax.jit(function).lower(jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 32))).compile().as_text()
    assert CONVOLUTION_FORWARD in text


def test_relu_has_jaxs_values_and_derivative():
    x = jnp.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(ops.relu(x), jax.nn.relu(x))
    np.testing.assert_array_equal(jax.vmap(jax.grad(ops.relu))(x), jax.vmap(jax.grad(jax.nn.relu))(x))
