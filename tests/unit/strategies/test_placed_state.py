"""A placed state knows how far it has come without asking a device."""

from __future__ import annotations

from jaxdist.state import Position, TrainState
from jaxdist.strategies.placed_state import PlacedState

TREES = {"params": {"a": 1.0}, "model_state": {}, "opt_state": {}}


def test_counts_come_from_the_canonical_state():
    pending = ((3, 5),)
    state = PlacedState.of("on devices", TrainState.of(TREES, 7, Position(84, pending)))
    assert (state.arrays, state.updates, state.examples_seen) == ("on devices", 7, 84)
    assert state.position.pending == pending


def test_an_update_takes_its_examples_pending_ones_first():
    state = PlacedState("before", 7, Position(84, ((3, 5), (9, 20))))
    after = state.after("after", 12)
    assert (after.arrays, after.updates, after.examples_seen) == ("after", 8, 96)
    assert after.position.pending == ((19, 20),) and after.position.next == state.position.next
    assert state.updates == 7 and state.arrays == "before"
