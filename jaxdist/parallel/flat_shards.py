"""A model's large tensors in equal shares: for each block and kind, one padded vector cut into as many parts.

    block     kernel A  kernel B                 tensors of at least `threshold` elements, in one vector a kind
    vector    |aaaaaaaaa|bbbbbbbbbbbbbbb|..|      padded with zeros to a multiple of the devices
    shares    |--- 0 ---|--- 1 ---|--- 2 ---|     one each: no size is indivisible
    whole     scale, bias, ...                   the others, on every device

One vector is one collective where a tensor each would be many (the flat parameters of PyTorch's first FSDP: Zhao et al.
2023, arXiv:2304.11277, section 4.2). Kinds (the last part of a name) stay apart, for rules that treat them differently.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdist.parallel.flat_layout import Layout, Tensor, pack, unpack
from jaxdist.state import Tree, flatten, unflatten

SHARDED, WHOLE = "sharded", "whole"


class FlatShards:
    """Between canonical trees, {block: nested dicts}, and stored ones: {block: {sharded: {kind: vector}, whole: ...}}.

    Args:
      shapes: {block: nested dicts of things with a shape}.
      dtype: of all.
      count: into how many shares.
      threshold: tensors of fewer elements stay whole.
    """

    def __init__(self, shapes: Mapping[str, Tree], dtype: Any, count: int, threshold: int) -> None:
        self.count, self._dtype = count, np.dtype(dtype)
        self.tensors: dict[str, dict[str, tuple[Tensor, ...]]] = {}
        for block, tree in shapes.items():
            large = {n: s for n, s in flatten(tree).items() if np.prod(s.shape) >= max(threshold, 1)}
            described = {n: jax.ShapeDtypeStruct(s.shape, self._dtype) for n, s in large.items()}
            inside = Layout.of(described, {}).params if large else ()  # in the order of their kinds
            self.tensors[block] = {k: tuple(ts) for k, ts in itertools.groupby(inside, key=lambda t: t.group)}

    def share(self, block: str, kind: str) -> int:
        """Elements of one share."""
        return -(-sum(t.size for t in self.tensors[block][kind]) // self.count)

    def offsets(self, block: str) -> Iterator[tuple[str, Tensor, int]]:
        """(kind, tensor, where it begins in its kind's vector) of each divided tensor of a block."""
        for kind, tensors in self.tensors[block].items():
            for tensor, end in zip(tensors, itertools.accumulate(t.size for t in tensors), strict=True):
                yield kind, tensor, end - tensor.size

    def portions(self, first: int, end: int) -> dict[str, tuple[int, int]]:
        """{block/tensor: where the shares from `first` to before `end` start and stop in it}, in row-major order."""
        found = {}
        for block in self.tensors:
            for kind, tensor, at in self.offsets(block):
                edges = (edge * self.share(block, kind) - at for edge in (first, end))
                start, stop = (min(max(edge, 0), tensor.size) for edge in edges)
                found[f"{block}/{tensor.name}"] = (start, stop)
        return found

    def store_portions(self, block: str, tree: Tree, first: int, end: int) -> Tree:
        """As `store_block`, where divided tensors are given as `portions`: vectors are those shares alone, in memory of
        their own. A tree may lack all tensors of a kind."""
        flat = flatten(tree)
        vectors = {}
        for kind, tensors in self.tensors[block].items():
            if tensors[0].name not in flat:
                continue
            dtype = np.dtype(flat[tensors[0].name].dtype)
            vector, at = np.zeros((end - first) * self.share(block, kind), dtype), 0
            for t in tensors:
                held = np.asarray(flat.pop(t.name))
                vector[at : at + held.size] = held
                at += held.size
            vectors[kind] = vector
        return {SHARDED: vectors, WHOLE: unflatten(flat)}

    def store(self, tree: Tree) -> Tree:
        """Of a canonical tree of JAX arrays; vectors are whole and padded. Traceable."""
        return {block: self.store_block(block, own) for block, own in tree.items()}

    def store_block(self, block: str, tree: Tree) -> Tree:
        flat = flatten(tree)
        vectors = {}
        for kind, tensors in self.tensors[block].items():
            vector = pack(tensors, {t.name: flat.pop(t.name) for t in tensors}, jnp)
            vectors[kind] = jnp.pad(vector, (0, self.count * self.share(block, kind) - vector.size))
        return {SHARDED: vectors, WHOLE: unflatten(flat)}

    def restore_block(
        self, block: str, stored: Tree, whole_vector: Callable[[Any], Any] = lambda vector: vector
    ) -> Tree:
        """The canonical tree of a block; `whole_vector` makes a padded vector whole from what is stored."""
        flat = flatten(stored[WHOLE])
        for kind, tensors in self.tensors[block].items():
            flat |= unpack(tensors, whole_vector(stored[SHARDED][kind]))
        return unflatten(flat)

    def specs(self, sharded: Any, whole: Any) -> Tree:
        """A prefix of a stored tree: `sharded` for its vectors, `whole` for the rest."""
        return {block: {SHARDED: sharded, WHOLE: whole} for block in self.tensors}
