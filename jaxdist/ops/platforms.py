"""Which of two formulations a program gets, and where XLA may not fuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

T = TypeVar("T")


def choose(*args: Any, cpu: Callable[..., T], plain: Callable[..., T]) -> T:
    """`cpu(*args)` in programs lowered for CPUs, `plain(*args)` in all others; both give the same shapes and numbers.

    A program over a mesh that XLA partitions by itself (an axis of type Auto with several devices) counts as 'other'.
    """
    mesh = jax.sharding.get_abstract_mesh()
    automatic = [n for n, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True) if kind == AxisType.Auto]
    if any(n > 1 for n in automatic):
        return plain(*args)
    return jax.lax.platform_dependent(*args, cpu=cpu, default=plain)


@jax.custom_vjp
def materialize(tree: T) -> T:
    """`tree`, written to memory once on CPUs: what follows reads it instead of computing it again.

    XLA's CPU backend fuses a cheap operation into each of its consumers. In chains (residual sums, dropout before
    BatchNorm before ReLU) that repeats the whole chain for every reduction and product that reads its end.
    `jax.lax.optimization_barrier` does not prevent it: it is gone before fusion. A loop of no rounds is not, and costs
    nothing, as its result is its operand's buffer. The barriers keep the simplifier from seeing that it has no rounds
    and that a round would change nothing.

    The derivative is materialized too.
    """
    return choose(tree, cpu=_loop_of_no_rounds, plain=lambda tree: tree)


def _loop_of_no_rounds(tree: T) -> T:
    barrier = jax.lax.optimization_barrier
    return jax.lax.while_loop(lambda carry: carry[0], barrier, (barrier(jnp.asarray(False)), tree))[1]


materialize.defvjp(lambda tree: (materialize(tree), None), lambda _, cotangent: (materialize(cotangent),))
