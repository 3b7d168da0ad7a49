"""Saying when something is to be computed, to a compiler that would do it all at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def once_there(array: jax.Array, other: Any) -> jax.Array:
    """`array`, but not before `other` (of floating point) is there; what is computed from it is computed anew.

    `jax.lax.optimization_barrier` would say so, but XLA's CPU backend drops it, then merges what has become equal (a
    second all-gather, whose purpose was not to keep the first) and moves what has no inputs to the beginning. It cannot
    see through a loop that would change the array, and does not know that it has no rounds: nothing is below -infinity.
    Nothing is differentiated through this.
    """
    first = other[(0,) * other.ndim]
    never = first < -jnp.inf
    return jax.lax.while_loop(lambda c: c[0], lambda c: (jnp.asarray(False), -c[1]), (never, array))[1]
