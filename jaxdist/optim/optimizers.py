"""Update rules by optax over a canonical optimizer state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from jaxdist import ops
from jaxdist.dotted import asked_for, function_of
from jaxdist.ops.kinds import OPTIMIZER_UPDATE, REGULARISATION
from jaxdist.optim import momentum as momentum_lib
from jaxdist.state import Tree, flatten, unflatten


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An update rule. Its state is a plain dict {slot: what of it belongs to each parameter, or one array}:

        optax     (TraceState(trace={'stem': {'kernel': a}}), ScaleByScheduleState(count=n))
        slots     {'0.trace': {'stem': {'kernel': a}}, '1.count': n}

    so that slots can be cut and placed just as the parameters are. A slot may lack parameters (masked ones), and hold
    something of another shape than the parameter. The learning rate is an argument of every update.

    Attributes:
      rule: optax transformation without its learning rate; turns gradients into a direction, which is subtracted.
      weight_decay: added as weight_decay * kernel to the gradients of kernels, and of kernels alone (L2 penalty).
      name: as the configuration calls it, for messages.
    """

    rule: optax.GradientTransformation
    weight_decay: float = 0.0
    name: str = dataclasses.field(default="", compare=False)

    def init(self, params: Tree) -> Tree:
        """Initial state for `params`, of whose leaves only shape and dtype matter; read-only NumPy arrays."""
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
        return jax.tree.map(np.asarray, _slots(self.rule.init(zeros), params))

    def shapes(self, params: Tree) -> Tree:
        """The same as `jax.ShapeDtypeStruct`s; makes nothing."""
        structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        return jax.eval_shape(lambda params: _slots(self.rule.init(params), params), structs)

    def init_leaf(self, slot: str, shape: tuple[int, ...], dtype: Any, name: str = "leaf") -> np.ndarray:
        """One leaf of `init`: the slot `slot` of the parameter at the path `name`, of that shape and dtype."""
        found = self.init(unflatten({name: jax.ShapeDtypeStruct(shape, dtype)}))[slot]
        return flatten(found)[name] if isinstance(found, dict) else found

    def update(self, grads: Tree, opt_state: Tree, params: Tree, learning_rate: jax.Array) -> tuple[Tree, Tree]:
        """(new params, new opt_state); pure, traceable."""
        if self.weight_decay:
            decay = optax.add_decayed_weights(self.weight_decay, mask=_is_kernel)
            with ops.kind(REGULARISATION):
                grads, _ = decay.update(grads, decay.init(params), params)
        state = _optax_state(opt_state, jax.eval_shape(self.rule.init, params), params)
        with ops.kind(OPTIMIZER_UPDATE):
            direction, state = self.rule.update(grads, state, params)
            new_params = jax.tree.map(lambda p, d: p - learning_rate.astype(p.dtype) * d, params, direction)
        return new_params, {slot: {} for slot in opt_state} | _slots(state, params)  # where there are no parameters

    def scale_momentum(self, opt_state: Tree, factor: Any) -> Tree:
        """The state with its momentum, where the rule has one, multiplied; traceable."""
        return momentum_lib.scaled(opt_state, factor)

    def check(self, params: Tree) -> None:
        """Refuses a rule that cannot train such parameters (shapes are enough). Makes nothing.

        Raises:
          ValueError: it cannot be applied; it begins with a copy of the parameters, which `init` does not see; or its
            state does not keep its shape.
        """
        dtype_of = jax.dtypes.canonicalize_dtype  # float64 may not be enabled
        structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype_of(leaf.dtype)), params)
        try:
            state = self.shapes(structs)
            started = jax.make_jaxpr(self.rule.init)(structs)
            rate = jax.ShapeDtypeStruct((), np.float32)
            made = jax.eval_shape(self.update, structs, state, structs, rate)
        except Exception as e:  # whatever the rule's code raises
            words = " ".join(str(e).split())
            raise ValueError(f"it cannot be applied to these parameters: {type(e).__name__}: {words}") from e
        if _depends_on_inputs(started.jaxpr):
            raise ValueError(
                "its initial state depends on the values of the parameters, and here it is made from their shapes alone"
            )
        for what, before, after in (("slots", state, made[1]), ("parameters", structs, made[0])):
            kept, new = ({path: _kind(leaf) for path, leaf in flatten(tree).items()} for tree in (before, after))
            if changed := sorted(path for path in kept.keys() | new.keys() if kept.get(path) != new.get(path)):
                path = changed[0]
                words = f"{kept.get(path, 'missing')} before an update and {new.get(path, 'missing')} after it"
                raise ValueError(f"it changes the kind of its {what}: {path} is {words}")


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _is_kernel(params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _depends_on_inputs(jaxpr: Any) -> bool:
    """Whether any output is computed from the inputs' values; may say so where they cancel."""
    tainted = {id(v) for v in jaxpr.invars}
    for equation in jaxpr.eqns:
        if any(id(v) in tainted for v in equation.invars):
            tainted |= {id(v) for v in equation.outvars}
    return any(id(v) in tainted for v in jaxpr.outvars)


# Between an optax state and slots.


def _addresses(state: Any, params: Tree) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """(slot, the parameter's path in it or (), leaf) of an optax state, in the order of its leaves.

    A leaf whose path ends with the whole path of a parameter belongs to that parameter.

    Raises:
      ValueError: the names of slots are not unique, or contain '/'.
    """
    known = {tuple(path.split("/")) for path in flatten(params)}
    found: set[tuple[str, tuple[str, ...]]] = set()
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        inside = len(path)  # the dicts at the end of the path
        while inside and isinstance(path[inside - 1], jax.tree_util.DictKey):
            inside -= 1
        cut = next((i for i in range(inside, len(path)) if tuple(names[i:]) in known), len(path))
        slot, own = ".".join(names[:cut]) or "state", tuple(names[cut:])
        if "/" in slot or (slot, own) in found:
            raise ValueError(f"the optimizer's state needs other names: {slot!r} has a '/' or is there twice")
        found.add((slot, own))
        yield slot, own, leaf


def _slots(state: Any, params: Tree) -> Tree:
    slots: Tree = {}
    for slot, path, leaf in _addresses(state, params):
        node, last = slots, slot
        for name in path:
            node = node.setdefault(last, {})
            last = name
        node[last] = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return slots


def _optax_state(slots: Tree, like: Any, params: Tree) -> Any:
    """The inverse of `_slots`, for a state like that."""
    leaves = []
    for slot, path, known in _addresses(like, params):
        leaf = slots[slot]
        for name in path:
            leaf = leaf[name]
        leaves.append(jax.random.wrap_key_data(leaf, impl=_key_impl(known)) if _is_key(known) else leaf)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _is_key(leaf: Any) -> bool:
    """Whether it is a key of random numbers: canonically, they are the numbers that it consists of."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(like: jax.ShapeDtypeStruct) -> Any:
    found: list[Any] = []  # JAX tells it of arrays alone
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]


# Rules. Constants are Keras's defaults, as in the experiments. What optax offers under these names carries a sign
# convention and a learning rate; these are the parts before the step.


def sgd(momentum: float) -> optax.GradientTransformation:
    return optax.trace(decay=momentum) if momentum else optax.identity()


def adadelta() -> optax.GradientTransformation:
    """Zeiler 2012 (arXiv:1212.5701)."""
    return optax.scale_by_adadelta(rho=0.95, eps=1e-7)


def adagrad() -> optax.GradientTransformation:
    """Duchi et al. 2011."""
    return optax.scale_by_rss(initial_accumulator_value=0.1, eps=1e-7)


def adam() -> optax.GradientTransformation:
    """Kingma and Ba 2015."""
    return optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-7)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "adadelta": adadelta,
    "adagrad": adagrad,
    "adam": adam,
}


@functools.lru_cache(maxsize=32)  # the same rule is one object: what was found out about it is kept
def build(name: str, *, momentum: float = 0.9, weight_decay: float = 0.0) -> Optimizer:
    """An optimizer of `OPTIMIZERS`, or by 'package.module:function' of the user's.

    The function is given those of the settings that it has a parameter for. One that takes `weight_decay` applies it
    as it likes; for the others it is the L2 penalty on kernels. It returns an optax transformation without the learning
    rate: `optax.scale_by_adam()`, not `optax.adam(0.1)`, whose steps have the opposite sign.

    Raises:
      ValueError: the function cannot be imported, or returns something else.
    """
    function = function_of(name, "optim.name") if ":" in name else OPTIMIZERS[name]
    settings = asked_for(function, {"momentum": momentum, "weight_decay": weight_decay})
    rule = function(**settings)
    if not isinstance(rule, optax.GradientTransformation):
        raise ValueError(f"optim.name={name!r} returned a {type(rule).__name__}, not an optax.GradientTransformation.")
    return Optimizer(rule, 0.0 if "weight_decay" in settings else weight_decay, name)
