"""Which of two formulations a program gets, and where XLA may not fuse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

T = TypeVar("T")

_platform: str | None = None  # that programs are for, where it is known


def trace_for(platform: str) -> bool:
    """Programs that are traced from now on are for that platform of JAX's alone, 'cpu' or another.

    Until then both formulations are traced, which takes half as long again, and each program gets its own when it is
    lowered. Nothing here asks JAX for its platform: that would begin its back ends, which must not be before
    `jax.distributed` has met.

    Returns:
      Whether it was not so before: what has been traced is for other platforms, too.
    """
    global _platform
    before, _platform = _platform, platform
    return before != platform


@contextlib.contextmanager
def for_all_platforms() -> Iterator[None]:
    """Programs that are traced meanwhile, in any thread, can be lowered for each platform."""
    global _platform
    before, _platform = _platform, None
    try:
        yield
    finally:
        _platform = before


def choose(*args: Any, cpu: Callable[..., T], plain: Callable[..., T]) -> T:
    """`cpu(*args)` in programs for CPUs, `plain(*args)` in all others; both give the same shapes and numbers.

    A program that XLA partitions by itself counts as 'other' where the mesh is known while it is traced
    (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`): one with an axis of several devices that is not Manual, as the
    axes of `shard_map` are. Elsewhere it gives the same numbers and gathers the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    if any(size > 1 and kind != AxisType.Manual for size, kind in axes):
        return plain(*args)
    if _platform is None:
        return jax.lax.platform_dependent(*args, cpu=cpu, default=plain)
    return cpu(*args) if _platform == "cpu" else plain(*args)


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
