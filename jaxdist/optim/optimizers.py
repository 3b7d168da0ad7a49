"""Update rules by optax over a canonical optimizer state, and the learning rate as a function of examples seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxdist.state import Tree


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An elementwise update rule.

    Its state is a plain dict {slot: tree like params, 'count': updates so far (where the rule asks for it)}, so that
    slots can be cut and placed just as the parameters are. The learning rate is an argument of every update.

    Attributes:
      rule: optax transformation without its learning rate; turns gradients into a direction.
      weight_decay: added as weight_decay * kernel to the gradients of kernels, and of kernels alone (L2 penalty).
    """

    rule: optax.GradientTransformation
    weight_decay: float = 0.0

    def init(self, params: Tree) -> Tree:
        """Initial state for `params`, of whose leaves only shape and dtype matter; read-only NumPy arrays."""
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
        slots = self.rule.init(zeros)._asdict()  # type: ignore[attr-defined]
        return jax.tree.map(np.asarray, slots)

    def shapes(self, params: Tree) -> Tree:
        """The same as `jax.ShapeDtypeStruct`s; makes nothing."""
        structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        return jax.eval_shape(self.rule.init, structs)._asdict()  # type: ignore[attr-defined]

    def init_leaf(self, slot: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """One leaf of `init`: the slot `slot` of a parameter of that shape and dtype."""
        found = self.init({"leaf": np.zeros(shape, dtype)})[slot]
        return found["leaf"] if isinstance(found, dict) else found

    def update(self, grads: Tree, opt_state: Tree, params: Tree, learning_rate: jax.Array) -> tuple[Tree, Tree]:
        """(new params, new opt_state); pure, traceable."""
        if self.weight_decay:
            decay = optax.add_decayed_weights(self.weight_decay, mask=_is_kernel)
            grads, _ = decay.update(grads, decay.init(params), params)
        state = self._state_type()(**opt_state)
        direction, state = self.rule.update(grads, state, params)
        new_params = jax.tree.map(lambda p, d: p - learning_rate.astype(p.dtype) * d, params, direction)
        return new_params, state._asdict()  # type: ignore[attr-defined]

    def _state_type(self) -> Any:
        return type(self.rule.init({}))


def _is_kernel(params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


# Adadelta's and Adagrad's transformations carry their sign convention in optax; these are the parts before the step.
_RULES: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": lambda momentum: optax.trace(decay=momentum) if momentum else optax.identity(),
    "adadelta": lambda _: optax.scale_by_adadelta(rho=0.95, eps=1e-7),
    "adagrad": lambda _: optax.scale_by_rss(initial_accumulator_value=0.1, eps=1e-7),
    "adam": lambda _: optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-7),
}
NAMES = tuple(_RULES)


def build(name: str, *, momentum: float = 0.9, weight_decay: float = 0.0) -> Optimizer:
    """An optimizer of `NAMES`; `momentum` is for sgd alone. Constants are Keras's defaults, as in the experiments.

    References: adadelta Zeiler 2012 (arXiv:1212.5701); adagrad Duchi et al. 2011; adam Kingma and Ba 2015.
    """
    return Optimizer(_RULES[name](momentum), weight_decay)
