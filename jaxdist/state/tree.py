"""Nested dicts with string keys, and the same as flat dicts of paths: the one shape of every state here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tree = dict[str, Any]


def flatten(tree: Any, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """{'params/stem/conv/kernel': leaf, ...} of nested dicts, in sorted order."""
    if not isinstance(tree, dict):
        return {"/".join(prefix): tree}
    found: dict[str, Any] = {}
    for key in sorted(tree):
        found |= flatten(tree[key], (*prefix, key))
    return found


def unflatten(flat: dict[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
