"""What a run begins with, on the chief and on the others: initial, or the chief's newest checkpoint."""

from __future__ import annotations

import types

import numpy as np
import pytest
from helpers.chief_and_other import Group

from jaxdist.checkpoint.checkpointer import Restored
from jaxdist.checkpoint.restore import restore
from jaxdist.errors import UsageError
from jaxdist.state import Position, TrainState, flatten, state_of
from jaxdist.state.train_state import stored_arrays

ARRAYS = {
    "params/head/kernel": np.arange(6.0).reshape(3, 2),
    "params/head/bias": np.zeros(2),
    "model_state/stem/mean": np.ones(3, np.float32),
    "opt_state/trace/head/kernel": np.zeros((3, 2)),
    "opt_state/count": np.int32(0),
}
TASK = types.SimpleNamespace(init=lambda: state_of(ARRAYS, {"updates": 0, "examples_seen": 0}))


class Checkpoints:
    """Has one, or none."""

    def __init__(self, state: TrainState | None) -> None:
        self._state = state

    def restore(self) -> Restored | None:
        if self._state is None:
            return None
        counts = {"updates": 7, "examples_seen": 84, "pending": self._state.pending, "elapsed": 3.5}
        leaves = stored_arrays(self._state)
        return Restored(state_of(leaves, counts), counts, leaves)


def trained(**more) -> TrainState:
    arrays = {name: np.asarray(leaf + leaf.dtype.type(1)) for name, leaf in ARRAYS.items()}
    return state_of(arrays | more, {"updates": 7, "examples_seen": 84, "pending": ((3, 5),)})


def both(state: TrainState | None):
    """(what the chief restores, what another process does, that process's group)."""
    chief = Group()
    other = Group(chief)
    return restore(Checkpoints(state), TASK, chief), restore(None, TASK, other), other


def assert_equal(found: TrainState, expected: TrainState) -> None:
    found, expected = flatten(found.arrays()), flatten(expected.arrays())
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(leaf), err_msg=name)


def test_without_a_checkpoint_all_begin_anew():
    (mine, before), (theirs, none), _ = both(None)
    assert before is none is None
    for state in (mine, theirs):
        assert state.updates == 0
        assert_equal(state, TASK.init())


def test_the_others_fetch_the_chief_s_checkpoint():
    stored = trained(**{"strategy_state/mine/residual": np.arange(3.0)})
    (mine, before), (theirs, told), group = both(stored)
    assert before["elapsed"] == told["elapsed"] == 3.5
    assert group.fetched == []  # before they are asked for
    for state in (mine, theirs):
        assert (state.updates, state.position) == (7, Position(84, ((3, 5),)))
        assert_equal(state, stored)
        np.testing.assert_array_equal(np.asarray(state.strategy_state["mine"]["residual"]), np.arange(3.0))
    assert len(group.fetched) == len(stored_arrays(stored))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"params/head/bias": np.zeros(3)},
            r"1 arrays differ, the first is 'params/head/bias' \(stored: \['float64', \[3\]\], configured: "
            r"\['float64', \[2\]\]\)",
        ),
        ({"params/extra": np.zeros(2, np.float32)}, r"\(stored: \['float32', \[2\]\], configured: None\)"),
        ({"opt_state/count": np.int64(1)}, r"1 arrays differ.*\(stored: \['int64', \[\]\], configured: \['int32'"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_on_every_process(more, words):
    chief = Group()
    for checkpoints, group in ((Checkpoints(trained(**more)), chief), (None, Group(chief))):
        with pytest.raises(UsageError, match=f"of another model or optimizer: .*{words}.*another --workdir"):
            restore(checkpoints, TASK, group)
