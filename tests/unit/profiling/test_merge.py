"""All processes' parts become one profile: exact waits and exchanges, tables, a trace, and what a reader must know.

Also `profiling/summary.py`.
"""

from __future__ import annotations

import csv
import gzip
import json

import pytest
from helpers.profile_parts import BEGAN, FIRST, SECOND, row, write_part

from jaxdist.errors import UsageError
from jaxdist.profiling import timeline
from jaxdist.profiling.merge import divided, merge, merge_folder
from jaxdist.profiling.summary import COLUMNS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two workers, of which worker 1 is late, and a server; merged."""
    folder = tmp_path_factory.mktemp("updates_3-6")
    reduced = row("all-reduce", 65 / 3, wall_ms=65 / 3, megabytes=0.7)
    layers = [row("convolution forward", 20.0, "a", calls=2.0, gflop=1.0), row("convolution forward", 10.0, "b")]
    write_part(folder, "worker-0", [reduced, *layers], FIRST, [("convolution forward a", "1", 0.1, 0.02)])
    reduced = row("all-reduce", 50 / 3)
    write_part(folder, "worker-1", [reduced, row("convolution forward", 60.0, "a"), row("copy", 1.0)], SECOND,
               [("convolution forward a", "1", 0.1, 0.06)])  # fmt: skip
    write_part(folder, "server-0", [row("server-side update", 4.0)])
    assert merge_folder(folder) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_collectives_are_waiting_and_exchange(summary):
    first, second = summary["collectives"]
    assert (first["process"], second["process"], first["kind"]) == ("worker-0", "worker-1", "all-reduce")
    assert first["waiting_ms"] == pytest.approx(20 / 3, abs=1e-3)
    assert second["waiting_ms"] == pytest.approx(5 / 3, abs=1e-3)
    assert first["exchange_ms"] == pytest.approx(15, abs=1e-3) == second["exchange_ms"]


def test_the_rows_of_a_process_still_add_up(folder):
    merged = merge([folder])
    for part, rows in zip(merged.parts, merged.rows, strict=True):
        assert sum(r["self_ms"] for r in rows) == pytest.approx(sum(r["self_ms"] for r in part.about["rows"]))
    found = {r["kind"]: r for r in merged.rows[0]}
    assert found["all-reduce: waiting for the slowest"]["self_ms"] == pytest.approx(20 / 3, abs=1e-3)
    assert found["all-reduce: exchange"]["wall_ms"] == pytest.approx(15, abs=1e-3)
    assert found["all-reduce: exchange"]["megabytes"] == 0.7 and "all-reduce" not in found
    assert divided([row("copy", 1.0)], []) == [row("copy", 1.0)]


def test_the_summary_has_least_mean_and_most_of_each_role(summary, folder):
    by = {(r["role"], r["kind"]): r for r in summary["rows"]}
    forward = by["worker", "convolution forward"]
    assert (forward["min_ms"], forward["mean_ms"], forward["max_ms"], forward["most_in"]) == (
        30.0,
        45.0,
        60.0,
        "worker-1",
    )
    assert forward["calls"] == 2.0 and forward["gflop"] == 0.5  # (3 + 1) / 2 and (1 + 0) / 2
    assert (by["worker", "copy"]["min_ms"], by["worker", "copy"]["mean_ms"]) == (0.0, 0.5)
    assert by["server", "server-side update"]["min_ms"] == 4.0  # workers, which have none, do not count
    with open(folder / "summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and rows[0]["kind"] == "convolution forward" and rows[0]["max_ms"] == "60.0"
    text = (folder / "summary.md").read_text()
    assert "| worker | convolution forward | 2 | 30.000 | 45.000 | 60.000 | worker-1 |" in text
    assert "| worker-0 | all-reduce | 1 | 6.667 | 15.000 | 20.000 |" in text


def test_one_trace_has_all_processes(folder):
    trace = json.loads(gzip.decompress((folder / "all.trace.json.gz").read_bytes()))
    named = {e["args"]["name"]: e["pid"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert list(named) == ["worker-0", "worker-1", "server-0"]
    waits = [e for e in trace["traceEvents"] if e["name"] == "all-reduce: waiting for the slowest"]
    assert [(e["pid"], round(e["ts"], -1), round(e["dur"], -1)) for e in waits] == [
        (named["worker-0"], 10_000, 20_000), (named["worker-1"], 200_000, 5_000)]  # fmt: skip


def test_nothing_is_said_of_a_whole_profile(summary):
    assert summary["notes"] == []


def test_several_folders_and_clocks(tmp_path):
    write_part(tmp_path / "a", "worker-0", [row("all-reduce", 20.0)], FIRST, num_processes=3)
    write_part(tmp_path / "b", "worker-1", [row("all-reduce", 20.0)], SECOND, [("copy", "1", 0.2, 0.1)], host="h1",
               clock=0.25, num_processes=3)  # fmt: skip
    merged = merge([tmp_path / "a", tmp_path / "b"])
    missing, clocks = merged.notes
    assert missing.startswith("1 of 3 workers are missing here (worker-2): waiting for them counts as exchange.")
    assert clocks.startswith("The clock of h1 was moved by -250.000 ms to that of h0: 3 collectives ended at the same")
    assert merged.splits[0][0].waiting_ms == pytest.approx(20 / 3, abs=1e-2)
    assert merged.timelines[1].start[0] - BEGAN == pytest.approx(0.2, abs=1e-5)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    write_part(tmp_path, "worker-0", [row("copy", 1.0)], FIRST, [("copy", "1", 0.01 * k, 0.001) for k in range(9)])
    write_part(tmp_path, "worker-1", [row("copy", 1.0)], SECOND[:1], host="h1", clock=9.0, updates=[3, 4], steps=1,
               cut=True)  # fmt: skip
    (tmp_path / "worker-1.trace.json.gz").write_bytes(b"damaged")
    monkeypatch.setattr(timeline, "MOST_EVENTS", 4)
    monkeypatch.setattr(timeline.within_limit, "__defaults__", (4,))
    merge_folder(tmp_path)
    notes = json.loads((tmp_path / "summary.json").read_text())["notes"]
    assert [note for note in notes if "of worker-1 was cut: of the updates 4 to 6 it has the updates 4 to 4." in note]
    assert [note for note in notes if "worker-1 has no timeline: worker-1.trace.json.gz cannot be read" in note]
    assert [note for note in notes if "2 of 3 collectives of worker-0 were not found on all processes" in note]
    assert [note for note in notes if "in the middle alone: 4 events" in note]
    assert all(note in (tmp_path / "summary.md").read_text() for note in notes)


def test_hosts_without_collectives_are_named(tmp_path):
    write_part(tmp_path, "worker-0")
    write_part(tmp_path, "worker-1", host="h1", clock=900.0)
    notes = merge([tmp_path]).notes
    assert notes[0] == "The clocks of h0 and h1 are as they are: there is no collective by which to compare them."
    assert notes[1].startswith("The processes did not record at the same time")


def test_a_folder_without_parts_is_refused(tmp_path):
    with pytest.raises(UsageError, match="No process has written a profile"):
        merge_folder(tmp_path)
