"""A layout travels as bytes and comes back the same."""

from __future__ import annotations

import pytest
from helpers.servers import LAYOUT, struct
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.parallel.flat_layout import Layout
from jaxdist.ps.layout_header import layout_from_header, layout_header


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["kernel", "bias", "scale"])), min_size=1, max_size=12),
)
def test_a_layout_comes_back(tensors):
    layout = Layout.of({f"{i}/{group}": struct(n) for i, (n, group) in enumerate(tensors)}, {})
    assert layout_from_header(layout_header(layout)) == layout


def test_statistics_travel_too_and_other_bytes_are_refused():
    assert layout_from_header(layout_header(LAYOUT)) == LAYOUT
    with pytest.raises(ValueError, match="the header cannot be read"):
        layout_from_header(b"\xff\xff no layout")
