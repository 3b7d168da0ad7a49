"""Update rules by optax over a canonical optimizer state, and a moving average of the parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdist import ops
from jaxdist.dotted import asked_for, function_of
from jaxdist.errors import nearest
from jaxdist.ops.kinds import OPTIMIZER_UPDATE, REGULARISATION
from jaxdist.optim import momentum as momentum_lib
from jaxdist.optim.from_optax import optimizers_of_optax, without_learning_rate
from jaxdist.optim.slots import optax_state, slots_of
from jaxdist.state import Tree, flatten, unflatten

AVERAGE, AVERAGE_WEIGHT = "parameter_ema", "parameter_ema_weight"  # slots


def is_kernel(path: str) -> bool:
    return path.rpartition("/")[2] == "kernel"


def is_any(path: str) -> bool:
    return True


DECAYS: dict[str, Callable[[str], bool]] = {"kernel": is_kernel, "all": is_any}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An update rule. Its state is a plain dict {slot: what of it belongs to each parameter, or one array}:

        optax     (TraceState(trace={'stem': {'kernel': a}}), ScaleByScheduleState(count=n))
        slots     {'0.trace': {'stem': {'kernel': a}}, '1.count': n}

    so that slots can be cut and placed just as the parameters are. A slot may lack parameters (masked ones), and hold
    something of another shape than the parameter. The learning rate is an argument of every update.

    Attributes:
      rule: optax transformation without its learning rate; turns gradients into a direction, which is subtracted.
      weight_decay: added as weight_decay * parameter to the gradients of those that `decays` names (L2 penalty).
      name: as the configuration calls it, for messages.
      decays: a parameter's path -> whether it is decayed.
      ema_decay: of the moving average of the parameters, by a global batch; 0: there is none. The average begins with
        zeros, and `AVERAGE_WEIGHT` is the weight that it has come to: their quotient is free of the zeros (as in Adam).
    """

    rule: optax.GradientTransformation
    weight_decay: float = 0.0
    name: str = dataclasses.field(default="", compare=False)
    decays: Callable[[str], bool] = is_kernel
    ema_decay: float = 0.0

    def init(self, params: Tree) -> Tree:
        """Initial state for `params`, of whose leaves only shape and dtype matter; read-only NumPy arrays."""
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
        return jax.tree.map(np.asarray, slots_of(self.rule.init(zeros), params) | self._average_of_nothing(zeros))

    def _average_of_nothing(self, zeros: Tree) -> Tree:
        if not self.ema_decay:
            return {}
        weight = np.zeros((), next((leaf.dtype for leaf in jax.tree.leaves(zeros)), np.float32))
        return {AVERAGE: zeros, AVERAGE_WEIGHT: weight}

    def shapes(self, params: Tree) -> Tree:
        """The same as `jax.ShapeDtypeStruct`s; makes nothing."""
        structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        slots = jax.eval_shape(lambda params: slots_of(self.rule.init(params), params), structs)
        of_nothing = self._average_of_nothing(structs)
        return slots | jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), of_nothing)

    def init_leaf(self, slot: str, shape: tuple[int, ...], dtype: Any, name: str = "leaf") -> np.ndarray:
        """One leaf of `init`: the slot `slot` of the parameter at the path `name`, of that shape and dtype."""
        found = self.init(unflatten({name: jax.ShapeDtypeStruct(shape, dtype)}))[slot]
        return flatten(found)[name] if isinstance(found, dict) else found

    def update(
        self, grads: Tree, opt_state: Tree, params: Tree, learning_rate: jax.Array, part: Any = 1.0
    ) -> tuple[Tree, Tree]:
        """(new params, new opt_state); pure, traceable.

        `part`: of a global batch that the gradient is of. The average decays by the power of it, so that it follows the
        examples, whatever an update is.
        """
        if self.weight_decay:
            decay = optax.add_decayed_weights(self.weight_decay, mask=functools.partial(_mask, self.decays))
            with ops.kind(REGULARISATION):
                grads, _ = decay.update(grads, decay.init(params), params)
        state = optax_state(opt_state, jax.eval_shape(self.rule.init, params), params)
        with ops.kind(OPTIMIZER_UPDATE):
            direction, state = self.rule.update(grads, state, params)
            new_params = jax.tree.map(lambda p, d: p - learning_rate.astype(p.dtype) * d, params, direction)
        none: Tree = {slot: {} for slot in opt_state}  # where there are no parameters
        return new_params, none | slots_of(state, params) | self._averaged(opt_state, new_params, part)

    def _averaged(self, opt_state: Tree, params: Tree, part: Any) -> Tree:
        if not self.ema_decay:
            return {}
        weight = opt_state[AVERAGE_WEIGHT]
        with ops.kind(OPTIMIZER_UPDATE):
            keep = jnp.asarray(self.ema_decay**part, weight.dtype)
            move = lambda old, new: (keep * old + (1 - keep) * new).astype(old.dtype)  # noqa: E731
            return {AVERAGE: jax.tree.map(move, opt_state[AVERAGE], params), AVERAGE_WEIGHT: move(weight, 1.0)}

    def evaluated(self, opt_state: Tree, params: Tree) -> Tree:
        """The parameters that evaluations are of: the average, where there is one. Traceable, and elementwise: parts of
        `params` and of the slot that belong together are enough."""
        if not self.ema_decay:
            return params
        return jax.tree.map(functools.partial(debiased, opt_state[AVERAGE_WEIGHT]), opt_state[AVERAGE], params)

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


def debiased(weight: Any, average: Any, param: Any) -> Any:
    """An average that began with zeros, without them; the parameter itself before the first update."""
    return jnp.where(weight > 0, average / jnp.where(weight > 0, weight, 1), param).astype(param.dtype)


def _mask(decays: Callable[[str], bool], params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, _: decays("/".join(key.key for key in path)), params)


def _depends_on_inputs(jaxpr: Any) -> bool:
    """Whether any output is computed from the inputs' values; may say so where they cancel."""
    tainted = {id(v) for v in jaxpr.invars}
    for equation in jaxpr.eqns:
        if any(id(v) in tainted for v in equation.invars):
            tainted |= {id(v) for v in equation.outvars}
    return any(id(v) in tainted for v in jaxpr.outvars)


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


def names() -> list[str]:
    """Of all rules that there are: ours, then optax's."""
    return [*OPTIMIZERS, *sorted(optimizers_of_optax(OPTIMIZERS))]


@functools.lru_cache(maxsize=32)  # the same rule is one object: what was found out about it is kept
def build(
    name: str,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_mask: str = "kernel",
    ema_decay: float = 0.0,
    options: tuple[tuple[str, Any], ...] = (),
) -> Optimizer:
    """An optimizer of `OPTIMIZERS`, of optax, or by 'package.module:function' of the user's.

    The function is given those of the settings that it has a parameter for, and the options. One that takes
    `weight_decay` applies it as it likes; for the others it is an L2 penalty. A function of the user's returns an optax
    transformation without the learning rate: `optax.scale_by_adam()`, not `optax.adam(0.1)`, whose steps have the
    opposite sign. Those of optax have a learning rate; it is taken out.

    Args:
      decay_mask: of `DECAYS`, or 'package.module:function' for a function from a parameter's path to a bool.

    Raises:
      ValueError: there is none of that name; the function cannot be imported, returns something else or does not take
        the options; or optax's uses its learning rate otherwise than as a factor.
    """
    if decay_mask not in DECAYS and ":" not in decay_mask:
        raise ValueError(
            f"optim.decay_mask={decay_mask!r} is not known; one of {', '.join(DECAYS)} or module:function."
        )
    decays = function_of(decay_mask, "optim.decay_mask") if ":" in decay_mask else DECAYS[decay_mask]
    theirs = {} if ":" in name or name in OPTIMIZERS else optimizers_of_optax(OPTIMIZERS)
    if ":" not in name and name not in OPTIMIZERS | theirs:
        there = sorted(OPTIMIZERS | theirs)
        raise ValueError(f"optim.name={name!r} is not known{nearest(name, there)}; one of {', '.join(there)}.")
    function = function_of(name, "optim.name") if ":" in name else (OPTIMIZERS | theirs)[name]
    settings = asked_for(function, {"momentum": momentum, "weight_decay": weight_decay})
    if name in theirs:
        settings.pop("momentum", None)  # theirs have other defaults: it is said in options
        masked = functools.partial(_mask, decays)
        masks = asked_for(function, {"mask": masked, "weight_decay_mask": masked})
        decayed = "weight_decay" in settings and dict(options).get("weight_decay", weight_decay)
        if decayed and not masks and decay_mask != "all":
            raise ValueError(
                f"optim.decay_mask={decay_mask!r} means nothing to optim.name={name!r}: its weight decay is of all "
                "parameters. Set optim.decay_mask='all', or no weight decay."
            )
        settings |= masks
    try:
        if name in theirs:
            rule = without_learning_rate(name, functools.partial(function, **settings | dict(options)))
        else:
            rule = function(**settings | dict(options))
    except TypeError as e:
        raise ValueError(f"optim.options does not fit optim.name={name!r}: {e}.") from e
    if not isinstance(rule, optax.GradientTransformation):
        raise ValueError(f"optim.name={name!r} returned a {type(rule).__name__}, not an optax.GradientTransformation.")
    l2 = 0.0 if "weight_decay" in settings or "weight_decay" in dict(options) else weight_decay
    return Optimizer(rule, l2, name, decays, ema_decay)


def configured(optim: Any) -> Optimizer:
    """The same from a configuration's `optim`.

    Raises:
      ValueError, TypeError: as `build`.
    """
    options = tuple(sorted((key, _hashable(value)) for key, value in dict(optim.options).items()))
    return build(
        optim.name,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        decay_mask=optim.decay_mask,
        ema_decay=optim.ema_decay,
        options=options,
    )


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
