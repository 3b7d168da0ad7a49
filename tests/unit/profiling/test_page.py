"""The page of a profile: one bounded file with all numbers in it, which asks the network for nothing."""

from __future__ import annotations

import json
import re

import pytest
from helpers.profile_parts import FIRST, SECOND, row, write_part

from jaxdist.profiling import page
from jaxdist.profiling.merge import merge


def numbers_of(text):
    return json.loads(re.search(r'<script type="application/json" id="numbers">(.*?)</script>', text, re.S)[1])


def profile(folder, events=(), **about):
    rows = [row("all-reduce", 20.0), row("copy", 70.0, "block/</script>"), row("not attributed", 10.0)]
    rows.append(row("evaluation", 900.0, share=0.0))  # beside the step
    write_part(folder, "worker-0", rows, FIRST, events)
    write_part(folder, "worker-1", rows, SECOND, **about)
    return merge([folder])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    events = [("copy block/</script>", "1", 0.06, 0.03), ("copy block/</script>", "1", 0.08, 0.05),
              ("data wait", "python 0", 0.24, 0.02), ("long ago", "1", 0.0, 0.01)]  # fmt: skip
    return page.page(profile(tmp_path_factory.mktemp("one"), events, cut=True, updates=[3, 5]))


def test_the_page_needs_nothing_else(text):
    assert text.startswith("<!doctype html>") and "<title>Where a step's time goes: updates 4 to 6" in text.replace(
        "&#x27;", "'"
    )
    assert not re.search(r'https?://|src=|@import|url\(|rel="stylesheet"|fetch\(', text)
    assert not re.search(r"@[A-Z]+@", text) and text.count("</script>") == 2  # of the numbers and of the script


def test_it_has_the_tables_of_all_processes(text):
    numbers = numbers_of(text)
    first, second = numbers["processes"]
    assert [r[:2] for r in first["rows"]][:2] == [["evaluation", ""], ["copy", "block/</script>"]]
    assert first["rows"][2][0] == "all-reduce: exchange"
    assert first["kinds"][1][:3] == ["copy", 1.0, 70.0] and sum(r[2] for r in first["kinds"]) == pytest.approx(1000)
    assert numbers["order"][0] == "copy" and "evaluation" in numbers["away"] and "evaluation" not in numbers["order"]
    assert second["cut"] and any("worker-1 was cut" in note for note in numbers["notes"])
    assert {r["kind"] for r in numbers["summary"]} >= {"copy", "all-reduce: waiting for the slowest"}
    assert [c["process"] for c in numbers["collectives"]] == ["worker-0", "worker-1"]


def test_it_says_what_the_words_mean(text):
    words = re.findall(r"<dt>(.*?)</dt>", text)
    assert {"self time", "wall time", "GFLOP", "GFLOP/s, of peak", "not attributed", "waiting for the slowest"} <= set(
        words
    )


def test_its_timeline_has_two_steps_of_the_middle(text):
    line = numbers_of(text)["timeline"]
    assert line["length"] == pytest.approx(200_000) and line["begin_ms"] == pytest.approx(50, abs=1e-2)
    names = [(lane["process"], lane["name"]) for lane in line["lanes"]]
    assert names == [(0, "collectives, device 0"), (0, "python 0"), (0, "thread 1"), (1, "collectives, device 0")]
    found = {}
    for lane, place, title, start, length in line["events"]:
        found.setdefault((names[lane], line["titles"][title][1]), []).append((place, round(start), round(length)))
    assert found[(0, "thread 1"), "copy block/</script>"] == [
        (0, 10_000, 30_000),
        (1, 30_000, 50_000),
    ]  # overlap: two rows
    assert found[(0, "python 0"), "data wait"] == [(0, 190_000, 10_000)]  # to the end of what is shown
    assert found[(1, "collectives, device 0"), "all-reduce: waiting for the slowest"] == [(0, 150_000, 5_000)]
    assert not [title for _, title in found if title == "long ago"]
    assert ["copy", "copy block/</script>"] in line["titles"] and line["left_out"] == [0, 0.0]


def test_its_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_EVENTS", 50)
    monkeypatch.setattr(page, "MOST_ROWS", 40)
    rows = [row("copy", 1.0, f"layer{k}") for k in range(100)]
    events = [("copy layer1", "1", 0.001 * k, 0.04 + 1e-6 * k) for k in range(300)]
    write_part(tmp_path, "worker-0", rows, FIRST, events)
    write_part(tmp_path, "worker-1", rows, SECOND, events)
    numbers = page.numbers(merge([tmp_path]))
    assert [len(p["rows"]) for p in numbers["processes"]] == [20, 20]
    assert numbers["processes"][0]["left_out"] == [80, 80.0] and numbers["processes"][0]["kinds"][0][2] == 100.0
    line = numbers["timeline"]
    lanes = [line["lanes"][event[0]]["name"] for event in line["events"]]
    assert len(lanes) == 50 and lanes.count("collectives, device 0") == 5  # shorter, and never left out
    shortest = min(e[4] for e, lane in zip(line["events"], lanes, strict=True) if lane == "thread 1")
    assert shortest >= round(line["left_out"][1], 1)
    assert line["left_out"][0] > 300


def test_a_process_alone_and_without_a_timeline_has_a_page(tmp_path):
    write_part(tmp_path, "worker-0", [row("copy", 100.0)], num_processes=1)
    (tmp_path / "worker-0.trace.json.gz").unlink()
    numbers = numbers_of(page.page(merge([tmp_path])))
    assert numbers["timeline"]["events"] == [] and "worker-0 has no timeline" in numbers["notes"][0]
