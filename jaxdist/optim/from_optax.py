"""Optax's own optimizers, without the learning rate and the sign that they carry."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Make = Callable[..., optax.GradientTransformation]


def optimizers_of_optax(but: Collection[str]) -> dict[str, Make]:
    """{name: function(learning_rate, ...)}, without those that are called as ours."""
    found: dict[str, Make] = {}
    for name, function in vars(optax).items():
        if name.startswith(("_", "scale_")) or name in but or not callable(function) or inspect.isclass(function):
            continue
        with contextlib.suppress(TypeError, ValueError):
            if next(iter(inspect.signature(function).parameters), "") == "learning_rate":
                found[name] = function
    return found


def without_learning_rate(name: str, make: Make) -> optax.GradientTransformation:
    """The direction that an optimizer of optax goes in, where its learning rate is a factor of its steps.

    Args:
      make: takes the learning rate.

    Raises:
      ValueError: it is something else, or needs more than gradients.
    """
    whole, half = make(learning_rate=1.0), make(learning_rate=0.5)
    _check_linear(name, whole, half)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        steps, state = whole.update(updates, state, params)
        return jax.tree.map(jnp.negative, steps), state

    return optax.GradientTransformation(whole.init, update)


def _check_linear(name: str, whole: optax.GradientTransformation, half: optax.GradientTransformation) -> None:
    """Three steps of both on the same gradients and parameters: one's must be half as long."""
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}, "b": {"bias": np.ones(2, np.float32)}}
    steps_of = [jax.jit(rule.update) for rule in (whole, half)]
    states = [jax.jit(rule.init)(params) for rule in (whole, half)]
    for _ in range(3):
        grads = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), params)
        steps = []
        for k, step_of in enumerate(steps_of):
            try:
                step, states[k] = step_of(grads, states[k], params)
            except TypeError as e:
                words = " ".join(str(e).split())
                raise ValueError(f"optim.name={name!r} needs more than gradients and parameters: {words}.") from e
            steps.append(jax.tree.leaves(step))
        near = functools.partial(np.allclose, rtol=1e-4, atol=1e-6)
        if not all(near(np.asarray(one) / 2, np.asarray(other)) for one, other in zip(*steps, strict=True)):
            raise ValueError(
                f"optim.name={name!r} uses its learning rate otherwise than as a factor of its steps, and here the "
                "rate follows a schedule of examples: use another."
            )
