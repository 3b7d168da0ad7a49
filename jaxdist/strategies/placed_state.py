"""A training state on devices, as most strategies have it."""

from __future__ import annotations

from typing import NamedTuple

from jaxdist.state import Position, TrainState, Tree


class PlacedState(NamedTuple):
    """Arrays on devices, and the counts that the host keeps so that it never has to ask them."""

    arrays: Tree  # params, model_state, opt_state
    updates: int
    position: Position

    @classmethod
    def of(cls, arrays: Tree, canonical: TrainState) -> PlacedState:
        return cls(arrays, canonical.updates, canonical.position)

    @property
    def examples_seen(self) -> int:
        return self.position.seen

    def after(self, arrays: Tree, examples: int) -> PlacedState:
        """The state after one more update, with the gradients of `examples` examples."""
        return PlacedState(arrays, self.updates + 1, self.position.take(examples)[1])
