"""Between the state of an optax transformation and slots: {slot: what belongs to each parameter, or one array}."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from jaxdist.state import Tree, flatten


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


def slots_of(state: Any, params: Tree) -> Tree:
    """The slots of a state for such parameters; names as the state's own, keys of random numbers as their words."""
    slots: Tree = {}
    for slot, path, leaf in _addresses(state, params):
        node, last = slots, slot
        for name in path:
            node = node.setdefault(last, {})
            last = name
        node[last] = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return slots


def optax_state(slots: Tree, like: Any, params: Tree) -> Any:
    """The inverse of `slots_of`, for a state like that."""
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
