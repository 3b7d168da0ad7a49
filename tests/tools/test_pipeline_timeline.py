"""`tools/pipeline_timeline.py`: one step of a pipeline as a trace; the picture needs matplotlib."""

from __future__ import annotations

import json

import pipeline_timeline
import pytest


def write_summary(folder):
    """Two stages, one microbatch: F0 F0 B0 B0, each of half a second."""
    first = {"replica": 0, "stage": 0, "spans": [["F0", 10.0, 10.5], ["B0", 11.5, 12.0]]}
    last = {"replica": 0, "stage": 1, "spans": [["F0", 10.5, 11.0], ["B0", 11.0, 11.5]]}
    (folder / "summary.json").write_text(json.dumps({"strategy": "pipeline", "timeline": [last, first]}))


def test_a_step_becomes_a_trace(tmp_path, monkeypatch, capsys):
    write_summary(tmp_path)
    monkeypatch.setattr(pipeline_timeline, "draw", lambda slots, summary, out: out.write_text("drawn"))
    assert pipeline_timeline.main([str(tmp_path)]) == 0
    assert "idle 50.0 % of the step" in capsys.readouterr().out
    assert (tmp_path / "timeline.png").read_text() == "drawn"
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == ["stage 0", "stage 1"]
    spans = [(e["tid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    half = 500_000
    assert spans == [(0, "F0", 0, half), (0, "B0", 3 * half, half), (1, "F0", half, half), (1, "B0", 2 * half, half)]


def test_what_has_no_timeline_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="the run is unfinished"):
        pipeline_timeline.main([str(tmp_path)])
    (tmp_path / "summary.json").write_text(json.dumps({"strategy": "allreduce"}))
    with pytest.raises(SystemExit, match="its strategy is 'allreduce', not a pipeline"):
        pipeline_timeline.main([str(tmp_path)])
