"""A strategy has four methods to write; what it leaves out means what most strategies want."""

from __future__ import annotations

import types

import pytest

from jaxdist.state import Position
from jaxdist.strategies.base import Strategy


class Least(Strategy):
    """As little as a strategy may have."""

    is_chief, examples_per_update, own_part = True, 12, (1, 2)

    def import_state(self, canonical, total_examples=0):
        return canonical

    def export_state(self, state):
        return state

    def train_step(self, state, batch, stop=False):
        return state, {}

    def eval_step(self, state, batch):
        return {}


@pytest.mark.parametrize("left_out", ["import_state", "export_state", "train_step", "eval_step"])
def test_none_of_the_four_may_be_left_out(left_out):
    methods = {name: method for name, method in vars(Least).items() if callable(method) and name != left_out}
    with pytest.raises(TypeError, match=left_out):
        type("Less", (Strategy,), methods)()


def test_what_is_left_out_changes_nothing():
    strategy, state, batch = Least(), types.SimpleNamespace(updates=3), {"image": 1}
    assert strategy.collective and strategy.eval_multiple == 1 and strategy.learning_rate_scale == 1.0
    assert strategy.place(batch) is batch
    assert strategy.drain(state) == (state, None)
    with strategy.away(state, "evaluate") as found:
        assert found is state
    assert strategy.state_dict() == {} and strategy.load_state_dict({}) is None
    assert strategy.close() is strategy.close(KeyError(), run_goes_on=True) is None
    assert strategy.report.evaluations() is None


def test_it_trains_on_its_part_of_each_update():
    found = list(Least().positions(Position(12), 36))
    assert [list(positions) for positions in found] == [list(range(18, 24)), list(range(30, 36))]
