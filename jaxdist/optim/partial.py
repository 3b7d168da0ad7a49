"""Whether parts of a model can be updated apart: found out by updating random tensors whole and in parts.

    whole         block0 {kernel, bias}   block1 {kernel}   block2 {scale}
    elementwise   |kernel ker|nel 00|   |bi|as 00|   ...      flat, cut anywhere: server shards, fsdp, zero1
    blockwise     block0   |   block1   |   block2            whole tensors: pipeline stages

What a rule does is not to be seen from outside: a norm over the whole model gives other numbers in parts, and that is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from jaxdist.optim.optimizers import OPTIMIZERS, Optimizer, build
from jaxdist.state import Tree, flatten, unflatten

# Few, for each costs time to compile. Two dims of 128 and more: Adafactor factors only those.
_SHAPES = {
    "block0/conv/kernel": (3, 2, 4),
    "block0/conv/bias": (4,),
    "block1/dense/kernel": (128, 130),
    "block2/norm/scale": (3,),
}
# Gradients of three magnitudes, from small to large since a large step hides what comes after it: thresholds (of
# clipping, say) lie between. Then one with an element that is not finite.
_MAGNITUDES = (1e-4, 1.0, 1e4, float("nan"))
# Of an array's largest element, in float32 (whose rounding is 6e-8 of it): the same operations may be fused otherwise,
# which costs a few roundings an update, and up to sqrt(elements) of them where 17,000 are summed (8e-6). A dependence
# on other elements changes an update by some part of itself, and an update of 1e-4 is 3e-4 of these parameters.
_TOLERANCE = 1e-5
_CUTS = (0.0, 0.37, 1.0)  # of each flat vector; the last part is padded
_PADDING = 5

Parts = list[Tree]


class Rule(Protocol):
    """What is tried: an `Optimizer`, or what updates as it does. What was found out is kept by its hash."""

    def __hash__(self) -> int: ...

    def init(self, params: Any) -> dict[str, Any]: ...

    def update(self, grads: Any, opt_state: Any, params: Any, learning_rate: Any) -> tuple[Any, Any]: ...


def check_elementwise(optimizer: Rule) -> None:
    """Refuses a rule under which what becomes of an element depends on others, or on the tensor that it is in.

    Raises:
      ValueError: it does; with what was found.
    """
    if reason := why_not_elementwise(optimizer):
        raise ValueError(
            f"the update rule is not elementwise: parts of a model cannot be updated apart ({reason}). Use an "
            f"elementwise rule ({', '.join(names_of(why_not_elementwise))}) without norms or clipping over tensors."
        )


def check_blockwise(optimizer: Rule) -> None:
    """Refuses a rule under which what becomes of a block depends on others.

    Raises:
      ValueError: it does; with what was found.
    """
    if reason := why_not_blockwise(optimizer):
        raise ValueError(
            f"the update rule is not blockwise: blocks of a model cannot be updated apart ({reason}). Use a rule "
            f"({', '.join(names_of(why_not_blockwise))}) without norms or clipping over the whole model."
        )


@functools.lru_cache(maxsize=64)
def why_not_elementwise(optimizer: Rule) -> str:
    """What differs, or ''."""
    return _difference(optimizer, _flat_parts, _from_flat_parts)


@functools.lru_cache(maxsize=64)
def why_not_blockwise(optimizer: Rule) -> str:
    """What differs, or ''."""
    return _difference(optimizer, _blocks, _from_blocks)


def names_of(why_not: Callable[[Any], str]) -> list[str]:
    """The rules of `OPTIMIZERS` that pass."""
    return [name for name in OPTIMIZERS if not why_not(build(name))]


def _difference(
    optimizer: Rule, cut: Callable[[Tree], Parts], join: Callable[[Parts], Mapping[str, np.ndarray]]
) -> str:
    """The first thing that comes out differently when the tensors are updated in parts."""
    rng = np.random.default_rng(0)
    whole = unflatten({path: rng.normal(size=shape).astype(np.float32) / 3 for path, shape in _SHAPES.items()})
    parts = cut(whole)
    rate = np.ones((), np.float32)

    def updated(grads: Any, states: Any, params: Any) -> Any:
        return [optimizer.update(g, s, p, rate) for g, s, p in zip(grads, states, params, strict=True)]

    with jax.default_device(_cheapest_device()):
        try:
            # Compiled without optimization, for four updates.
            fast = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
            step = jax.jit(updated, compiler_options=fast)
            state, states = optimizer.init(whole), [optimizer.init(part) for part in parts]
            reason = _slots_differ(state, states, join)
            for magnitude in () if reason else _MAGNITUDES:
                grads = _gradients(rng, magnitude)
                ((whole, state),) = jax.tree.map(np.asarray, step([grads], [state], [whole]))
                moved = jax.tree.map(np.asarray, step(cut(grads), states, parts))
                parts, states = [p for p, _ in moved], [s for _, s in moved]
                reason = _values_differ("parameter", whole, join(parts)) or _slots_differ(state, states, join)
                if reason:
                    words = f"about {magnitude:g}" if np.isfinite(magnitude) else "1, one element of them not finite"
                    return f"{reason}, after an update with gradients of {words}"
            return reason
        except Exception as e:  # whatever the rule's code raises
            words = " ".join(str(e).split())
            return f"it cannot be applied to tensors of other names and shapes than the model's: {words}"


def traced_update(optimizer: Optimizer, params: Tree) -> str:
    """What a rule does to parameters of such shapes, as the text of a program that has no names. Computes nothing."""
    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    traced = jax.make_jaxpr(optimizer.update)(
        structs, optimizer.shapes(structs), structs, jax.ShapeDtypeStruct((), np.float32)
    )
    return f"{traced.jaxpr} {[str(const) for const in traced.consts]}"


def _cheapest_device() -> jax.Device:
    """A CPU where JAX has one: a few small updates are not worth the programs of another device."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return jax.local_devices()[0]


def _gradients(rng: np.random.Generator, magnitude: float) -> Tree:
    scale = magnitude if np.isfinite(magnitude) else 1.0
    grads = {path: (scale * rng.normal(size=shape)).astype(np.float32) for path, shape in _SHAPES.items()}
    if not np.isfinite(magnitude):
        grads["block1/dense/kernel"][3, 5] = magnitude
    return unflatten(grads)


# The two ways to cut.


def _blocks(tree: Tree) -> Parts:
    return [{block: own} for block, own in tree.items()]


def _from_blocks(parts: Parts) -> dict[str, np.ndarray]:
    return flatten({block: own for part in parts for block, own in part.items()})


def _kinds() -> dict[str, list[str]]:
    """{last part of a name: paths}."""
    found: dict[str, list[str]] = {}
    for path in _SHAPES:
        found.setdefault(path.rpartition("/")[2], []).append(path)
    return found


def _flat_parts(tree: Tree) -> Parts:
    flat = flatten(tree)
    parts: Parts = [{} for _ in _CUTS[1:]]
    for kind, paths in _kinds().items():
        vector = np.concatenate([np.ravel(flat[path]) for path in paths])
        edges = [round(cut * vector.size) for cut in _CUTS]
        for part, begin, end in zip(parts, edges[:-1], edges[1:], strict=True):
            part[kind] = np.pad(vector[begin:end], (0, _PADDING if end == vector.size else 0))
    return parts


def _from_flat_parts(parts: Parts) -> dict[str, np.ndarray]:
    """Of kinds that are there; of whatever sizes they are."""
    found = {}
    for kind, paths in _kinds().items():
        if all(kind in part for part in parts):
            vector, at = np.concatenate([np.ravel(part[kind]) for part in parts]), 0
            for path in paths:
                size = int(np.prod(_SHAPES[path]))
                piece, at = vector[at : at + size], at + size
                found[path] = piece.reshape(_SHAPES[path]) if piece.size == size else piece
    return found


# Comparisons. Each returns what differs, or ''.


def _slots_differ(state: Tree, states: Parts, join: Callable[[Parts], Mapping[str, np.ndarray]]) -> str:
    names = state.keys() | {slot for own in states for slot in own}
    for slot in sorted(names):
        alone = [own.get(slot) for own in states]
        if isinstance(state.get(slot), dict):
            there = [own for own in alone if isinstance(own, dict)]
            reason = _values_differ(f"slot {slot!r} of", state[slot], join([own or {} for own in there]))
            if reason:
                return reason
        else:
            for own in alone:
                if not isinstance(own, dict) and (reason := _differ(f"slot {slot!r}", state.get(slot), own)):
                    return reason
                if isinstance(own, dict):
                    return f"slot {slot!r} is there in parts alone"
    return ""


def _values_differ(what: str, whole: Tree, joined: Mapping[str, np.ndarray]) -> str:
    flat = flatten(whole)
    found = (_differ(f"{what} {path}", flat.get(path), joined.get(path)) for path in sorted(flat.keys() | joined))
    return next(filter(None, found), "")


def _differ(what: str, whole: Any, part: Any) -> str:
    if whole is None or part is None:
        return f"{what} is there {'in parts' if whole is None else 'in the whole model'} alone"
    a, b = np.asarray(whole), np.asarray(part)
    if a.shape != b.shape:
        return f"{what} is {list(a.shape)} in the whole model and {list(b.shape)} in parts"
    if a.dtype.kind in "iub?":
        differing = int(np.sum(a != b))
        return f"{what} is {_shown(a)} in the whole model and {_shown(b)} in parts" if differing else ""
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return f"{what} is not finite in other places ({np.sum(~np.isfinite(a))} and {np.sum(~np.isfinite(b))})"
    largest = float(np.max(np.abs(a[finite]), initial=0.0))
    difference = float(np.max(np.abs(a - b)[finite], initial=0.0))
    return f"{what} differs by {difference:.2g} of {largest:.2g}" if difference > _TOLERANCE * largest else ""


def _shown(array: np.ndarray) -> str:
    return str(array.item()) if array.size == 1 else str(array.reshape(-1)[:4].tolist())
