"""The canonical training state: the one layout that initialisation, checkpoints, strategies and tests share.

    params       {block: {layer: {name: array}}}
    model_state  {block: {layer: {mean, var}}}             BatchNorm's running statistics
    opt_state    {slot: <tree keyed like params> or one array (a count, say), ...}             see `optim.Optimizer`
    updates, examples_seen, pending                        Python integers, and ranges of the stream (`Position`)

Its leaves are arrays or `LazyArray`s, so that no process needs more than its share of a model plus one block; of the
initial state, no more than the parts of arrays that it asks for (`TrainState.cut`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdist.state.lazy_array import LazyArray, Select
from jaxdist.state.position import Position, Ranges
from jaxdist.state.tree import Tree, flatten, unflatten


@dataclasses.dataclass(frozen=True)
class TrainState:
    """The canonical state (see the module's docstring).

    Attributes:
      cut_by: what `cut` is done by, where better can be done than to take parts of whole leaves. A state with other
        leaves must not keep it: make such states by `of`.
    """

    params: Tree
    model_state: Tree
    opt_state: Tree
    updates: int = 0
    examples_seen: int = 0
    pending: Ranges = ()
    cut_by: Callable[[Mapping[str, Select]], TrainState] | None = dataclasses.field(default=None, compare=False)

    def cut(self, parts: Mapping[str, Select]) -> TrainState:
        """The same with parts of leaves in place of those that `parts` names (as in 'params/stem/conv/kernel')."""
        if self.cut_by is not None:
            return self.cut_by(parts)
        leaves = flatten(self.arrays())
        leaves |= {path: LazyArray.part(leaves[path], select) for path, select in parts.items()}
        return TrainState.of(arrays_of(leaves), self.updates, self.position)

    def in_memory(self) -> TrainState:
        """The same with every leaf an array of this process."""
        return TrainState.of(jax.tree.map(np.asarray, self.arrays()), self.updates, self.position)

    @property
    def position(self) -> Position:
        """Where in the stream of examples the run stands."""
        return Position(self.examples_seen, self.pending)

    def arrays(self) -> Tree:
        """The three trees in one dict: what is placed on devices and written to disk."""
        return {"params": self.params, "model_state": self.model_state, "opt_state": self.opt_state}

    @classmethod
    def of(cls, arrays: Tree, updates: int, position: Position) -> TrainState:
        trees = arrays["params"], arrays["model_state"], arrays.get("opt_state", {})
        return cls(*trees, updates, position.seen, position.pending)


def arrays_of(leaves: Mapping[str, Any]) -> Tree:
    """`TrainState.arrays` from what `flatten` makes of them; it drops what is empty."""
    return {"params": {}, "model_state": {}, "opt_state": {}} | unflatten(dict(leaves))
