"""Forward and backward pass as two programs: the derivatives are JAX's, and inputs are not saved twice."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdist.task.two_pass import TwoPass


def function(differentiated, others):
    params, x = differentiated
    y = jnp.tanh(x @ params["kernel"] + others["bias"])
    return jnp.sin(y) * others["weight"], {"mean": y.mean(0)}


def arguments():
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
    return ({"kernel": make(3, 4)}, make(5, 3)), {"bias": make(4), "weight": make(5, 4)}, make(5, 4)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_derivatives_are_those_of_one_program(recompute):
    differentiated, others, cotangent = arguments()
    passes = TwoPass(function, recompute=recompute)
    output, auxiliary, saved = jax.jit(passes.forward)(differentiated, others)
    found = jax.jit(passes.backward)(differentiated, others, saved, cotangent)

    def whole(differentiated, others, cotangent):
        y, back, aux = jax.vjp(lambda d: function(d, others), differentiated, has_aux=True)
        return y, aux, back(cotangent)[0]

    wanted = jax.jit(whole)(differentiated, others, cotangent)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), (output, auxiliary, found), wanted)
    inputs = [np.asarray(leaf) for leaf in jax.tree.leaves((differentiated, others))]
    for array in saved:
        assert not any(array.shape == i.shape and np.array_equal(array, i) for i in inputs), "an input is saved"
    assert len(saved) == 0 if recompute else len(saved) >= 1
