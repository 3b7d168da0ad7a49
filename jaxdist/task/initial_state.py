"""The initial canonical state, made block by block when its arrays are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from jaxdist.models import COLLECTIONS, PARAMS, STATS, Graph
from jaxdist.state import Select, flatten

_COLLECTION = {"params": PARAMS, "model_state": STATS}  # where Flax keeps the trees that a model has
_TREE = {collection: tree for tree, collection in _COLLECTION.items()}

# How many bytes may wait until they are asked for. A state is asked for tree by tree: beyond this, one program makes a
# block's statistics and another, traced and compiled anew, its parameters.
KEPT_BYTES = 32 * 2**20


class InitialModel:
    """Makes a block of the model's trees when one of its leaves is asked for."""

    def __init__(self, chain: Graph, seed: int, parts: Mapping[str, Select]) -> None:
        self._chain, self._seed, self._parts = chain, seed, parts
        self._made: dict[str, np.ndarray] = {}  # not yet handed out: of one tree of the last block, of any size
        self._kept: dict[str, np.ndarray] = {}  # not yet handed out: of the other tree of small ones

    def leaf(self, path: str) -> np.ndarray:
        for waiting in (self._made, self._kept):
            if path in waiting:
                return waiting.pop(path)  # a large one must not stay until another block is asked for
        tree, block, _ = path.split("/", 2)
        self._made = {}  # before the next is made
        parts = {name: self._own_parts(name, block) for name in _COLLECTION}
        room = KEPT_BYTES - sum(a.nbytes for a in self._kept.values())
        together = not any(parts.values()) and self._nbytes(block) <= room
        collections = COLLECTIONS if together else (_COLLECTION[tree],)
        made = self._chain.init_block(block, self._seed, collections, parts[tree])
        for collection, leaves in zip(COLLECTIONS, made, strict=True):
            waiting = self._made if _TREE[collection] == tree else self._kept
            waiting |= {f"{_TREE[collection]}/{block}/{name}": leaf for name, leaf in flatten(leaves).items()}
        return self._made.pop(path)

    def _own_parts(self, tree: str, block: str) -> dict[str, Select]:
        above = f"{tree}/{block}/"
        return {path.removeprefix(above): cut for path, cut in self._parts.items() if path.startswith(above)}

    def _nbytes(self, block: str) -> int:
        leaves = (like for tree in self._chain.shapes[block] for like in flatten(tree).values())
        return sum(math.prod(like.shape) * like.dtype.itemsize for like in leaves)
