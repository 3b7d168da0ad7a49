"""A function whose forward and backward pass run as two programs, at different times.

`jax.vjp` inside a jitted function gives what the backward pass needs as arrays to return. Some of those are the
function's own inputs (its parameters, above all): returning them would copy them on every call, so they are left out
and put back in the second program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

Saved = tuple[jax.Array, ...]


class TwoPass:
    """`function(differentiated, others) -> (output, auxiliary)`, in two parts; both are to be traced by `jax.jit`.

    Args:
      function: pure; `differentiated` is a tuple of pytrees, of floating point.
      recompute: the backward pass computes the forward pass again and nothing is saved but the inputs
        (rematerialisation: Chen et al. 2016, arXiv:1604.06174).
    """

    def __init__(self, function: Callable[[tuple[Any, ...], Any], tuple[Any, Any]], *, recompute: bool = False) -> None:
        self._function, self._recompute = function, recompute
        self._structure: Any = None  # of the backward function; known when the forward pass has been traced
        self._inputs: list[int | None] = []  # for each of its arrays, which input it is; None: a saved one

    def forward(self, differentiated: tuple[Any, ...], others: Any) -> tuple[Any, Any, Saved]:
        """(output, auxiliary, what `backward` needs besides the inputs)."""
        if self._recompute:
            output, auxiliary = self._function(differentiated, others)
            return output, auxiliary, ()
        output, back, auxiliary = jax.vjp(lambda d: self._function(d, others), differentiated, has_aux=True)
        arrays, self._structure = jax.tree.flatten(back)
        place = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves((differentiated, others)))}
        self._inputs = [place.get(id(array)) for array in arrays]
        return output, auxiliary, tuple(a for a, i in zip(arrays, self._inputs, strict=True) if i is None)

    def backward(self, differentiated: tuple[Any, ...], others: Any, saved: Saved, cotangent: Any) -> tuple[Any, ...]:
        """The derivatives by `differentiated`; the inputs must be those of the forward pass, which came first."""
        if self._recompute:
            _, back, _ = jax.vjp(lambda d: self._function(d, others), differentiated, has_aux=True)
        else:
            inputs, rest = jax.tree.leaves((differentiated, others)), iter(saved)
            arrays = [next(rest) if i is None else inputs[i] for i in self._inputs]
            back = jax.tree.unflatten(self._structure, arrays)
        return back(cotangent)[0]
