"""Which stage of which replica lies on which process and device."""

from __future__ import annotations

from jaxdist.strategies.pipeline.placement import places


def test_slots_are_dealt_out_in_order():
    assert [tuple(p) for p in places(2, 2, 4, 1)] == [(0, 0, 0, 0), (0, 1, 1, 0), (1, 0, 2, 0), (1, 1, 3, 0)]
    assert [p.process for p in places(4, 1, 2, 1)] == [0, 0, 1, 1]
    assert [(p.process, p.device) for p in places(2, 2, 1, 4)] == [(0, 0), (0, 1), (0, 2), (0, 3)]
