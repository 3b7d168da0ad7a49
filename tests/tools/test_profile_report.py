"""`tools/profile_report.py`: what the processes of a run have written becomes one profile, or one sentence says why
not."""

from __future__ import annotations

import json

import profile_report
import pytest
from helpers.profile_parts import row, write_part


def test_a_run_that_was_killed_is_reported(tmp_path, capsys):
    """Hosts with run directories of their own, of which one has come further; there is no summary yet."""
    for window, updates in (("updates_10-12", [10, 12]), ("updates_3-6", [3, 6])):
        write_part(tmp_path / "a" / "profile" / window, "worker-0", [row("copy", 1.0)], window=window, updates=updates)
    write_part(tmp_path / "b" / "profile" / "updates_3-6", "worker-1", [row("copy", 3.0)])
    assert profile_report.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out.splitlines()
    pages = [tmp_path / "a" / "profile" / window / "index.html" for window in ("updates_3-6", "updates_10-12")]
    assert said[0] == f"{pages[0]}: worker-0 100.0 ms, worker-1 100.0 ms a step."
    assert said[1] == f"{pages[1]}: worker-0 100.0 ms a step."
    assert said[2].startswith("  1 of 2 workers are missing here (worker-1)")
    assert all(page.exists() for page in pages)
    (copy,) = json.loads((pages[0].parent / "summary.json").read_text())["rows"]
    assert (copy["min_ms"], copy["mean_ms"], copy["max_ms"]) == (1.0, 2.0, 3.0)
    assert profile_report.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0  # over what it has written


@pytest.mark.parametrize(
    ("second", "window", "words"),
    [
        ({"config": {"model.name": "resnet"}}, "updates_3-6", "model.name is cnn in worker-0 and resnet in worker-1."),
        ({"window": "updates_4-6"}, "updates_3-6", "of different windows: window is updates 4 to 6 in worker-0"),
        ({}, "updates_4-6", "b has profiles of other windows (updates_4-6) than the directories before"),
        (None, "", "b has no profile (profile/*/PROCESS.json)"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(tmp_path, capsys, second, window, words):
    write_part(tmp_path / "a" / "profile" / "updates_3-6", "worker-0")
    (tmp_path / "b").mkdir()
    if second is not None:
        write_part(tmp_path / "b" / "profile" / window, "worker-1", **second)
    assert profile_report.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not list(tmp_path.rglob("index.html"))
