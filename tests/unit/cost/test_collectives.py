"""The collectives of a program, read from its text."""

from __future__ import annotations

import math

from jaxdist.cost.collectives import Collective, collectives, totals


def test_collectives_are_read_from_a_program():
    text = """ENTRY %main (p: f32[8,4]) -> f32[8,4] {
      %all-reduce.1 = f32[8,4]{1,0} all-reduce(%p), channel_id=1, replica_groups=[2,2]<=[4], to_apply=%add
      %ag = (f64[2]{0}, s32[3]{0}) all-gather(%a, %b), replica_groups={{0,1,2,3}}, dimensions={0}
      %cp = bf16[10]{0} collective-permute(%c), source_target_pairs={{0,1}}
      %alone = f32[8]{0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%add
      %fusion = f32[8,4]{1,0} fusion(%all-reduce.1), kind=kLoop
}
"""
    found = collectives(text, 4)
    assert found == [
        Collective("all-reduce", 128, 2),
        Collective("all-gather", 28, 4),
        Collective("collective-permute", 20, 4),
    ]
    assert totals(found)["all-reduce"] == {"count": 1, "bytes": 128, "bytes_sent": 128}
    assert found[1].bytes_sent == math.ceil(28 * 3 / 4)
