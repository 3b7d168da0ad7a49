"""Two formulations of one function compared: values and gradients, each as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "bfloat16": 3e-2}


def numbers(seed: int, *shape: int, dtype: str = "float64") -> np.ndarray:
    """Normally distributed; made by NumPy, which compiles nothing."""
    return np.random.default_rng(seed).normal(size=shape).astype(jnp.dtype(dtype))


def assert_close(found: Any, wanted: Any, dtype: str = "float64") -> None:
    """Relative to the largest element: a rounding error is one of the sums that an element is the difference of."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * max(np.abs(b).max(), 1e-3))


def with_gradients(f: Callable[..., Any], *, optimised: bool = True) -> Callable[..., Any]:
    """f's values, and the gradients of a fixed weighted sum of them: one program for arguments of equal shapes.

    Args:
      optimised: by XLA, as a program of training is; what that is compared with need not be, and compiles sooner.
    """

    def both(args: tuple[Any, ...], weights: Any) -> tuple[Any, Any]:
        y, pull = jax.vjp(f, *args)
        return y, pull(weights)

    options = {} if optimised else {"xla_backend_optimization_level": 0}
    program = jax.jit(both, compiler_options=options)

    def call(*args: Any) -> Any:
        shapes, structure = jax.tree.flatten(jax.eval_shape(f, *args))
        weights = [numbers(100 + i, *leaf.shape, dtype=leaf.dtype) for i, leaf in enumerate(shapes)]
        return program(args, jax.tree.unflatten(structure, weights))

    return call


def reference(f: Callable[..., Any]) -> Callable[..., Any]:
    """`with_gradients` of what another formulation is compared with."""
    return with_gradients(f, optimised=False)


def plain_conv(x: Any, kernel: Any, strides: Any, padding: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
