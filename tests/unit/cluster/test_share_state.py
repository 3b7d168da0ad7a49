"""The chief's state on another process: described at once, its arrays fetched when they are asked for."""

from __future__ import annotations

import numpy as np
from helpers.chief_and_other import Group

from jaxdist.cluster.share_state import share
from jaxdist.state import Position, TrainState, flatten


def test_the_others_get_the_chief_s_state_and_fetch_what_they_ask_for():
    arrays = {
        "params": {"stem": {"conv": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}},
        "model_state": {"stem": {"norm": {"mean": np.ones(3)}}},
        "opt_state": {"count": np.int32(4)},
    }
    state = TrainState.of(arrays, 7, Position(84, ((3, 5), (9, 12))), {"ours": {"residual": np.zeros(2)}})
    chief = Group()
    other = Group(chief)
    assert share(chief, state, "state") is state
    found = share(other, None, "state")
    assert (found.updates, found.position) == (7, state.position)
    assert other.fetched == []
    np.testing.assert_array_equal(found.params["stem"]["conv"]["kernel"], arrays["params"]["stem"]["conv"]["kernel"])
    assert other.fetched == ["params/stem/conv/kernel"]
    for mine, theirs in ((state.arrays(), found.arrays()), (state.strategy_state, found.strategy_state)):
        flat, fetched = flatten(mine), flatten(theirs)
        assert flat.keys() == fetched.keys()
        for name, array in flat.items():
            assert fetched[name].dtype == array.dtype
            np.testing.assert_array_equal(fetched[name], array)


def test_what_another_than_the_chief_has_does_not_count():
    chief, state = Group(), TrainState.of({"params": {"a": np.ones(1)}, "model_state": {}}, 1, Position(3))
    share(chief, state, "state")
    mine = TrainState.of({"params": {"a": np.zeros(1)}, "model_state": {}}, 9, Position(0))
    other = Group(chief)
    found = share(other, mine, "state")
    assert found.updates == 1 and np.asarray(found.params["a"]) == 1
    assert other.served == {}
