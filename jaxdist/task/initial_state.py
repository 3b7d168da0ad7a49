"""The initial canonical state, made block by block when its arrays are asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxdist.models import PARAMS, STATS, Chain
from jaxdist.state import Select, flatten

_COLLECTION = {"params": PARAMS, "model_state": STATS}  # where Flax keeps the trees that a model has


class InitialModel:
    """Makes a block of one of the model's trees when one of its leaves is asked for."""

    def __init__(self, chain: Chain, seed: int, parts: Mapping[str, Select]) -> None:
        self._chain, self._seed, self._parts = chain, seed, parts
        self._made: dict[str, np.ndarray] = {}  # of the last block, not yet handed out

    def leaf(self, path: str) -> np.ndarray:
        if path not in self._made:
            tree, block, _ = path.split("/", 2)
            above = f"{tree}/{block}/"
            own = {path.removeprefix(above): cut for path, cut in self._parts.items() if path.startswith(above)}
            self._made = {}  # before the next is made
            made = self._chain.init_block(block, self._seed, (_COLLECTION[tree],), own)
            self._made = {above + name: leaf for trees in made for name, leaf in flatten(trees).items()}
        return self._made.pop(path)  # a large one must not stay until another block is asked for
