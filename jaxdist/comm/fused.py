"""Many small arrays summed over a mesh axis in one collective, or few (Horovod's tensor fusion, arXiv:1802.05799).

leaves   [a][bb][c] [dddd] [e]        sorted by dtype, cut into buffers of at most `megabytes`
buffers  |a bb c dddd| |e|            one all-reduce each
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def plan_buffers(sizes: list[tuple[int, Any]], megabytes: float) -> list[list[int]]:
    """Groups leaves, given as (bytes, dtype), into buffers: lists of indices, each of one dtype, in order.

    A buffer holds at most `megabytes` unless a single leaf is larger; 0 gives every leaf a buffer of its own.
    """
    limit = megabytes * 2**20
    groups: list[list[int]] = []
    open_group: dict[Any, tuple[int, float]] = {}  # dtype -> (index of its open group, bytes in it)
    for i, (size, dtype) in enumerate(sizes):
        at, filled = open_group.get(dtype, (-1, 0.0))
        if at < 0 or filled + size > limit:
            at, filled = len(groups), 0.0
            groups.append([])
        groups[at].append(i)
        open_group[dtype] = (at, filled + size)
    return groups


def fused_psum(tree: Any, axis_name: str, megabytes: float) -> Any:
    """Sum of `tree` over the mesh axis, in as few all-reduces as `megabytes` allows. Inside shard_map or pmap.

    Elementwise the same sums as `jax.lax.psum(tree, axis_name)`.
    """
    leaves, treedef = jax.tree.flatten(tree)
    summed: list[Any] = [None] * len(leaves)
    for group in plan_buffers([(leaf.size * leaf.dtype.itemsize, leaf.dtype) for leaf in leaves], megabytes):
        if len(group) == 1:
            summed[group[0]] = jax.lax.psum(leaves[group[0]], axis_name)
            continue
        buffer = jax.lax.psum(jnp.concatenate([leaves[i].ravel() for i in group]), axis_name)
        ends = np.cumsum([leaves[i].size for i in group])
        for i, part in zip(group, jnp.split(buffer, ends[:-1]), strict=True):
            summed[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(treedef, summed)
