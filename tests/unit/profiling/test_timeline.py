"""Timelines: what is read is what was written, and the merged trace has all processes on one clock, or says its cut."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from helpers.profile_parts import BEGAN, write_part

from jaxdist.profiling.collectives import Calls
from jaxdist.profiling.timeline import empty, nested, read_timeline, within_limit, write_trace

NO_CALLS = Calls([], [], np.array([], int), np.array([]), np.array([]), np.array([]))


def test_a_timeline_is_read_in_order(tmp_path):
    write_part(tmp_path, "worker-0", events=[("b", "2", 0.2, 0.05), ("a", "1", 0.1, 0.02), ("b", "1", 0.3, 0.01)])
    found = read_timeline(tmp_path / "worker-0.trace.json.gz")
    assert [found.titles[k] for k in found.title] == ["a", "b", "b"]
    assert [found.threads[k] for k in found.thread] == ["1", "2", "1"]
    np.testing.assert_allclose(found.start - BEGAN, [0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(found.seconds, [0.02, 0.05, 0.01], atol=1e-9)
    assert found.titles_of() == {"a": "a", "b": "b"}


def test_the_merged_trace_has_an_entry_for_each_process(tmp_path):
    write_part(tmp_path, "worker-0", events=[("dot", "1", 0.1, 0.02), ("data wait", "python 0", 0.0, 0.1)])
    line = read_timeline(tmp_path / "worker-0.trace.json.gz")
    calls = Calls(["all-reduce"], ["all-reduce.1"], np.array([0]), np.array([BEGAN + 0.12]), np.array([BEGAN + 0.2]),
                  np.array([0.05]))  # fmt: skip
    write_trace(tmp_path / "all.gz", [("worker-0", line, calls), ("worker-1", empty(), NO_CALLS)], BEGAN, {"notes": []})
    trace = json.loads(gzip.decompress((tmp_path / "all.gz").read_bytes()))
    assert trace["otherData"] == {"notes": [], "unix_time_of_0": BEGAN}
    labels = {(e["name"], e["args"].get("name")) for e in trace["traceEvents"] if e["ph"] == "M"}
    assert {("process_name", "worker-0"), ("process_name", "worker-1"), ("thread_name", "thread 1")} <= labels
    assert {("thread_name", "python 0"), ("thread_name", "collectives, device 0")} <= labels
    times = {e["name"]: (e["pid"], e["ts"], e["dur"]) for e in trace["traceEvents"] if e["ph"] == "X"}
    expected = {
        "dot": (1, 100_000.0, 20_000.0),
        "data wait": (1, 0.0, 100_000.0),
        "all-reduce: waiting for the slowest": (1, 120_000.0, 50_000.0),
        "all-reduce: exchange": (1, 170_000.0, 30_000.0),
    }
    assert times.keys() == expected.keys()
    for name, numbers in expected.items():  # Unix seconds as floats are good for a quarter of a microsecond
        assert times[name] == pytest.approx(numbers, abs=0.5)
    lanes = [(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["ph"] == "X"]
    assert len(set(lanes)) == 3 and all(isinstance(k, int) for lane in lanes for k in lane)


def test_a_merged_trace_is_cut_around_the_middle(tmp_path):
    write_part(tmp_path, "worker-0", events=[("dot", "1", 0.01 * k, 0.001) for k in range(30)])
    line = read_timeline(tmp_path / "worker-0.trace.json.gz")
    (whole,), reach = within_limit([line], BEGAN + 0.151, most=30)
    assert len(whole) == 30 and reach == float("inf")
    kept, reach = within_limit([line, line], BEGAN + 0.151, most=12)
    assert [len(one) for one in kept] == [6, 6]
    np.testing.assert_allclose(kept[0].start - BEGAN, [0.13, 0.14, 0.15, 0.16, 0.17, 0.18], atol=1e-6)
    assert 0.03 < reach < 0.04


def test_events_that_overlap_without_containing_each_other_get_lanes_of_their_own(tmp_path):
    events = [("whole", "1", 0.0, 0.10), ("inside", "1", 0.01, 0.02), ("over its end", "1", 0.05, 0.10),
              ("other thread", "2", 0.05, 0.10), ("after", "1", 0.12, 0.01)]  # fmt: skip
    write_part(tmp_path, "worker-0", events=events)
    line = read_timeline(tmp_path / "worker-0.trace.json.gz")
    found = {line.titles[title]: row for title, row in zip(line.title, nested(line), strict=True)}
    assert found == {"whole": 0, "inside": 0, "over its end": 1, "other thread": 0, "after": 0}
