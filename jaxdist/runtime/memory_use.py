"""How much memory this process uses."""

from __future__ import annotations

import resource
from typing import Any

import jax


def peak_bytes() -> int:
    """The most that was resident at one time since the process began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_here(tree: Any) -> int:
    """Of the JAX arrays in a tree, on this process's devices."""
    return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree) for shard in getattr(leaf, "addressable_shards", []))
