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

    A program that XLA partitions by itself counts as 'other' where the mesh is known while it is traced
    (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`): one with an axis of several devices that is not Manual, as the
    axes of `shard_map` are. Elsewhere it gives the same numbers and gathers the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    if any(size > 1 and kind != AxisType.Manual for size, kind in axes):
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

    The derivative is materialized too. Like all of this package, not for forward-mode differentiation.
    """
    return choose(tree, cpu=_loop_of_no_rounds, plain=lambda tree: tree)


def _loop_of_no_rounds(tree: T) -> T:
    barrier = jax.lax.optimization_barrier
    start = (barrier(jnp.asarray(False)), tree)
    return jax.lax.while_loop(lambda carry: carry[0], lambda carry: (barrier(carry[0]), barrier(carry[1])), start)[1]


materialize.defvjp(lambda tree: (materialize(tree), None), lambda _, cotangent: (materialize(cotangent),))
