"""The canonical state: what is stored of it comes back, parts are parts, the rest stays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxdist.state import LazyArray, Position, TrainState, flatten, state_of
from jaxdist.state.train_state import stored_arrays


def make() -> TrainState:
    kernel = np.arange(12.0).reshape(3, 4)
    arrays = {
        "params": {"stem": {"conv": {"kernel": kernel}}, "head": {"bias": np.ones(2)}},
        "model_state": {},
        "opt_state": {"trace": {"stem": {"conv": {"kernel": -kernel}}, "head": {"bias": np.zeros(2)}}},
    }
    return TrainState.of(arrays, 5, Position(60, ((1, 4),)), {"ours": {"steps": np.int32(3)}})


def assert_equal(found: TrainState, wanted: TrainState) -> None:
    assert (found.updates, found.position) == (wanted.updates, wanted.position)
    a, b = stored_arrays(found), stored_arrays(wanted)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_what_is_stored_comes_back():
    state = make()
    progress = {"updates": 5, "examples_seen": 60, "pending": [[1, 4]]}
    assert_equal(state_of(stored_arrays(state), progress), state)
    assert stored_arrays(state).keys() == {
        "params/stem/conv/kernel", "params/head/bias", "opt_state/trace/stem/conv/kernel", "opt_state/trace/head/bias",
        "strategy_state/ours/steps",
    }  # fmt: skip
    old = state_of(flatten(state.arrays()), {"updates": 5, "examples_seen": 60})  # of before there were the others
    assert old.pending == () and old.strategy_state == {} and old.model_state == {}


def test_parts_take_the_place_of_what_they_are_parts_of_and_all_else_stays():
    state = make()
    cut = state.cut({"params/stem/conv/kernel": lambda a: a[1:], "opt_state/trace/head/bias": lambda a: a[:1]})
    assert isinstance(cut.params["stem"]["conv"]["kernel"], LazyArray)
    np.testing.assert_array_equal(cut.params["stem"]["conv"]["kernel"], state.params["stem"]["conv"]["kernel"][1:])
    assert cut.opt_state["trace"]["head"]["bias"].shape == (1,)
    assert cut.params["head"]["bias"] is state.params["head"]["bias"] and cut.strategy_state is state.strategy_state
    assert (cut.updates, cut.position) == (5, state.position)
    with pytest.raises(KeyError):
        state.cut({"params/other": lambda a: a})


def test_whoever_can_cut_better_is_asked_to_and_is_no_part_of_a_state_in_memory():
    state = dataclasses.replace(make(), cut_by=lambda parts: ("cut", parts))
    assert state.cut({"a": len}) == ("cut", {"a": len})
    lazy = TrainState.of(
        state.cut_by({})[1] | state.arrays() | {"params": {"a": LazyArray((2,), np.dtype("f8"), lambda: np.ones(2))}},
        1,
        Position(2),
    )
    kept = dataclasses.replace(lazy, cut_by=state.cut_by).in_memory()
    assert kept.cut_by is None and isinstance(kept.params["a"], np.ndarray)
    assert_equal(kept, lazy)
