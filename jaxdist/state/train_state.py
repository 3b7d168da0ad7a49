"""The canonical training state: the one layout that initialisation, checkpoints, strategies and tests share.

    params       {block: {layer: {name: array}}}
    model_state  {block: {layer: {mean, var}}}             BatchNorm's running statistics
    opt_state    {slot: <tree keyed like params> or one array (a count, say), ...}             see `optim.Optimizer`
    updates, examples_seen, pending                        Python integers, and ranges of the stream (`Position`)
    strategy_state {strategy: tree}                        what a strategy keeps besides the model: residuals of error
                                                           feedback, outer momentum, gradients not yet applied

Its leaves are arrays or `LazyArray`s, so that no process needs more than its share of a model plus one block; of the
initial state, no more than the parts of arrays that it asks for (`TrainState.cut`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdist.state.lazy_array import LazyArray, Select
from jaxdist.state.position import Position, Ranges
from jaxdist.state.tree import Tree, flatten, unflatten


@dataclasses.dataclass(frozen=True)
class TrainState:
    """The canonical state (see the module's docstring).

    Attributes:
      strategy_state: kept where the same strategy goes on, dropped where another one does.
      cut_by: what `cut` is done by, where better can be done than to take parts of whole leaves. A state with other
        leaves must not keep it: make such states by `of`.
    """

    params: Tree
    model_state: Tree
    opt_state: Tree
    updates: int = 0
    examples_seen: int = 0
    pending: Ranges = ()
    strategy_state: Tree = dataclasses.field(default_factory=dict)
    cut_by: Callable[[Mapping[str, Select]], TrainState] | None = dataclasses.field(default=None, compare=False)

    def cut(self, parts: Mapping[str, Select]) -> TrainState:
        """The same with parts of leaves in place of those that `parts` names (as in 'params/stem/conv/kernel')."""
        if self.cut_by is not None:
            return self.cut_by(parts)
        leaves = flatten(self.arrays())
        leaves |= {path: LazyArray.part(leaves[path], select) for path, select in parts.items()}
        return TrainState.of(arrays_of(leaves), self.updates, self.position, self.strategy_state)

    def in_memory(self) -> TrainState:
        """The same with every leaf an array of this process."""
        import jax  # not above: see `lazy_array.part_shape`

        arrays, own = jax.tree.map(np.asarray, (self.arrays(), self.strategy_state))
        return TrainState.of(arrays, self.updates, self.position, own)

    @property
    def position(self) -> Position:
        """Where in the stream of examples the run stands."""
        return Position(self.examples_seen, self.pending)

    def arrays(self) -> Tree:
        """The three trees of the model in one dict: what every strategy places on devices."""
        return {"params": self.params, "model_state": self.model_state, "opt_state": self.opt_state}

    @classmethod
    def of(cls, arrays: Tree, updates: int, position: Position, strategy_state: Tree | None = None) -> TrainState:
        trees = arrays["params"], arrays["model_state"], arrays.get("opt_state", {})
        return cls(*trees, updates, position.seen, position.pending, strategy_state or {})


def arrays_of(leaves: Mapping[str, Any]) -> Tree:
    """`TrainState.arrays` from what `flatten` makes of them; it drops what is empty."""
    return {"params": {}, "model_state": {}, "opt_state": {}} | unflatten(dict(leaves))


STRATEGY_STATE = "strategy_state"


def stored_arrays(state: TrainState) -> dict[str, Any]:
    """Everything that a checkpoint keeps, and that processes send each other: {path: array or lazy array}."""
    return flatten(state.arrays()) | flatten({STRATEGY_STATE: state.strategy_state})


def state_of(leaves: Mapping[str, Any], progress: Mapping[str, Any]) -> TrainState:
    """The inverse of `stored_arrays`, with a checkpoint's counts (updates, examples_seen, pending). Those of
    before there was a strategy state have none."""
    pending = tuple((start, stop) for start, stop in progress.get("pending", ()))  # absent in old ones
    trees = arrays_of(leaves)
    position = Position(progress["examples_seen"], pending)
    return TrainState.of(trees, progress["updates"], position, trees.get(STRATEGY_STATE, {}))
