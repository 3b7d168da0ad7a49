"""Where a run stands in the stream of examples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jaxdist.state import Position
from jaxdist.state.position import bounds, from_bounds, indices


@given(st.lists(st.integers(1, 9), max_size=20), st.data())
def test_positions_come_back(counts, drawn):
    position, taken = Position(), []
    for count in counts:
        ranges, position = position.take(count)
        if drawn.draw(st.booleans()):
            taken += list(indices(ranges))
        else:
            position = position.give_back(ranges)
    rest, after = position.take(position.next - position.seen)
    assert sorted(taken + (list(indices(rest)) if rest else [])) == list(range(after.next))
    assert not after.pending


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=5))
def test_ranges_travel_as_a_list_of_bounds(ranges):
    assert from_bounds(bounds(ranges)) == tuple(ranges)
