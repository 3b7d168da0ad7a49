"""What is computed from an array that is to wait is computed anew, after what it waits for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdist.ops.ordering import once_there


def test_once_there_changes_no_number_and_shares_none_with_what_was_computed_before():
    def twice(x, other, again):
        return jnp.sin(x).sum() + jnp.sin(again(x, other)).sum()

    x, other = np.linspace(-1, 1, 64, dtype=np.float32), np.zeros((3, 2), np.float32)
    found = {}
    for again in (once_there, lambda x, _: x, lambda x, o: jax.lax.optimization_barrier((x, o))[0]):
        program = jax.jit(twice, static_argnums=2).lower(x, other, again).compile()
        found[again] = program.as_text().count(" sine(")
        np.testing.assert_allclose(program(x, other), 2 * np.sin(x).sum(), atol=1e-5)
    assert list(found.values()) == [2, 1, 1]  # should the last be 2 some day, `once_there` has become simple


def test_once_there_comes_after_what_it_waits_for_even_where_that_is_infinite():
    for first in (np.inf, -np.inf, np.nan):
        found = jax.jit(once_there)(np.arange(3.0, dtype=np.float32), np.full((2,), first, np.float32))
        np.testing.assert_array_equal(found, [0.0, 1.0, 2.0])
