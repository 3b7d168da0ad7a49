"""Collectives of several processes: known starts and ends give known waits, whatever the hosts' clocks say.

Also the groups of `runtime/program.py`, by which devices are told apart that do not exchange with each other.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers.profile_parts import BEGAN, FIRST, SECOND, write_part

from jaxdist.profiling.collectives import compare, split
from jaxdist.profiling.parts import read_parts
from jaxdist.runtime.program import Program, replica_groups


def compared(folder, kinds=None):
    parts = read_parts([folder])
    calls, clocks = compare(parts, kinds or [{}] * len(parts))
    return parts, calls, clocks


def test_who_comes_first_waits_for_the_last(tmp_path):
    write_part(tmp_path, "worker-0", collectives=FIRST)
    write_part(tmp_path, "worker-1", collectives=SECOND)
    parts, calls, clocks = compared(tmp_path)
    np.testing.assert_allclose(calls[0].waiting, [0.020, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(calls[1].waiting, [0.0, 0.0, 0.005], atol=1e-6)
    (first,), (second,) = (split(part, own) for part, own in zip(parts, calls, strict=True))
    assert (first.kind, first.calls, first.matched) == ("all-reduce", 1.0, 1.0)
    # ms a step: 20 of 65 over three steps, and 5 of 50; the exchanges are equal
    assert first.waiting_ms == pytest.approx(20 / 3, abs=1e-3) and first.exchange_ms == pytest.approx(45 / 3, abs=1e-3)
    assert second.waiting_ms == pytest.approx(5 / 3, abs=1e-3) and second.exchange_ms == pytest.approx(45 / 3, abs=1e-3)
    assert first.longest_wait_ms == pytest.approx(20, abs=1e-3)
    assert clocks["h0"].moved == 0.0


def test_clocks_of_hosts_are_moved_by_the_ends_of_the_same_collectives(tmp_path):
    write_part(tmp_path, "worker-0", collectives=FIRST)
    write_part(tmp_path, "worker-1", collectives=SECOND, host="h1", clock=12.5)
    _, calls, clocks = compared(tmp_path)
    assert clocks["h1"].moved == pytest.approx(-12.5, abs=1e-5) and clocks["h1"].calls == 3
    np.testing.assert_allclose(calls[0].waiting, [0.020, 0.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(calls[1].start - BEGAN, [0.030, 0.100, 0.200], atol=1e-5)


def test_one_late_answer_does_not_move_a_clock(tmp_path):
    """The median: one collective whose end one host saw 50 ms late says nothing of its clock."""
    late = [*SECOND[:1], ("all-reduce.1", 0, 0.100, 0.180), *SECOND[2:]]
    write_part(tmp_path, "worker-0", collectives=FIRST)
    write_part(tmp_path, "worker-1", collectives=late, host="h1", clock=-3.0)
    _, _, clocks = compared(tmp_path)
    assert clocks["h1"].moved == pytest.approx(3.0, abs=1e-5)


def test_hosts_without_collectives_keep_their_clocks(tmp_path):
    write_part(tmp_path, "worker-0")
    write_part(tmp_path, "worker-1", host="h1", clock=5.0)
    parts, calls, clocks = compared(tmp_path)
    assert clocks["h1"] == clocks["h0"] and clocks["h1"].calls == 0
    assert [split(part, own) for part, own in zip(parts, calls, strict=True)] == [[], []]


def test_a_process_alone_waits_for_nobody_known(tmp_path):
    write_part(tmp_path, "worker-0", collectives=FIRST)
    (part,), (calls,), _ = compared(tmp_path)
    assert np.isnan(calls.waiting).all() and split(part, calls) == []


def test_all_devices_of_a_process_are_looked_at(tmp_path):
    """Four devices in two processes: the slowest is device 1 of worker 1; times are of one device, on average."""
    write_part(tmp_path, "worker-0", collectives=[("psum.2", 0, 0.0, 0.05), ("psum.2", 1, 0.01, 0.05)], steps=1)
    second = [("psum.2", 2048, 0.02, 0.05), ("psum.2", 2049, 0.04, 0.05)]  # as JAX numbers devices of other processes
    write_part(tmp_path, "worker-1", collectives=second, steps=1)
    parts, calls, _ = compared(tmp_path, [{"psum.2": "all-reduce"}] * 2)
    np.testing.assert_allclose(calls[0].waiting, [0.04, 0.03], atol=1e-6)
    np.testing.assert_allclose(calls[1].waiting, [0.02, 0.0], atol=1e-6)
    assert calls[1].device.tolist() == [0, 1]
    (first,) = split(parts[0], calls[0])
    assert (first.kind, first.calls) == ("all-reduce", 1.0)
    assert first.waiting_ms == pytest.approx(35, abs=1e-3) and first.exchange_ms == pytest.approx(10, abs=1e-3)


def test_devices_of_different_groups_do_not_wait_for_each_other(tmp_path):
    groups = {"all-reduce.1": [[0, 2], [1, 3]]}
    write_part(tmp_path, "worker-0", collectives=[("all-reduce.1", 0, 0.00, 0.05), ("all-reduce.1", 1, 0.01, 0.05)],
               groups=groups)  # fmt: skip
    second = [("all-reduce.1", 2048, 0.02, 0.05), ("all-reduce.1", 2049, 0.04, 0.05)]
    write_part(tmp_path, "worker-1", collectives=second, groups=groups)
    _, calls, _ = compared(tmp_path)
    np.testing.assert_allclose(calls[0].waiting, [0.02, 0.03], atol=1e-6)
    np.testing.assert_allclose(calls[1].waiting, [0.0, 0.0], atol=1e-6)


def test_a_window_that_begins_later_has_the_later_calls(tmp_path):
    write_part(tmp_path, "worker-0", collectives=FIRST)
    write_part(tmp_path, "worker-1", collectives=SECOND[1:], updates=[4, 6], steps=2)
    _, calls, _ = compared(tmp_path)
    np.testing.assert_allclose(calls[0].waiting, [np.nan, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(calls[1].waiting, [0.0, 0.005], atol=1e-6)


def test_a_window_that_ends_earlier_leaves_calls_unmatched_and_the_rest_stands_for_them(tmp_path):
    write_part(tmp_path, "worker-0", collectives=FIRST)
    write_part(tmp_path, "worker-1", collectives=SECOND[:1], steps=1, updates=[3, 4], cut=True)
    parts, calls, _ = compared(tmp_path)
    np.testing.assert_allclose(calls[0].waiting, [0.02, np.nan, np.nan], atol=1e-6)
    (first,) = split(parts[0], calls[0])
    assert first.matched == pytest.approx(1 / 3) and first.waiting_share == pytest.approx(2 / 3, abs=1e-4)
    assert first.waiting_ms + first.exchange_ms == pytest.approx(65 / 3, abs=1e-3)


def test_calls_of_which_one_ends_before_another_begins_are_not_the_same(tmp_path):
    write_part(tmp_path, "worker-0", collectives=FIRST)
    write_part(tmp_path, "worker-1", collectives=[*SECOND[:2], ("all-reduce.1", 0, 0.25, 0.26)])
    _, calls, _ = compared(tmp_path)
    np.testing.assert_allclose(calls[0].waiting, [0.02, 0.0, np.nan], atol=1e-6)


def test_nobody_waits_for_longer_than_the_call(tmp_path):
    """Clocks of one host are read at moments that differ a little: here one ends 0.5 ms before the last begins."""
    write_part(tmp_path, "worker-0", collectives=[("all-reduce.1", 0, 0.0100, 0.0195)])
    write_part(tmp_path, "worker-1", collectives=[("all-reduce.1", 0, 0.0200, 0.0210)])
    _, calls, _ = compared(tmp_path)
    np.testing.assert_allclose(calls[0].waiting, [0.0095], atol=1e-6)
    np.testing.assert_allclose(calls[1].waiting, [0.0], atol=1e-6)


def test_a_permutation_is_not_divided(tmp_path):
    pairs = [("collective-permute.3", 0, 0.01, 0.02)]
    write_part(tmp_path, "worker-0", collectives=pairs)
    write_part(tmp_path, "worker-1", collectives=pairs)
    parts, calls, _ = compared(tmp_path)
    assert split(parts[0], calls[0]) == []


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        ("channel_id=1, replica_groups={{0,1},{2,3}}, use_global_device_ids=true", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4], to_apply=%add", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add", [[0, 2], [1, 3]]),
        ("replica_groups={}, to_apply=%add", []),
        ("to_apply=%add", []),
    ],
)
def test_groups_are_read_from_a_program(attributes, groups):
    text = (
        "ENTRY %main (x: f32[2]) -> f32[2] {\n  ROOT %all-reduce.1 = f32[2]{0} all-reduce(%x), " + attributes + "\n}\n"
    )
    assert replica_groups(Program(text)["all-reduce.1"]) == groups
