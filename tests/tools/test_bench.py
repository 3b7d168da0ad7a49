"""`tools/bench.py`: its front end (what it measures takes minutes)."""

from __future__ import annotations

import bench
import pytest


def test_what_cannot_be_measured_is_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        bench.main(["allredcue"])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    for name in ("allreduce", "train", "pipeline", "sharding", "wire", "parameter_server", "staleness", "profile"):
        assert f"'{name}'" in said


def test_two_sides_are_measured_in_turn():
    done = []
    a, b = bench.alternate(lambda: done.append("a"), lambda: done.append("b"), pairs=3)
    assert "".join(done) == "ab" * 4  # one of each to warm up
    assert len(a) == len(b) == 3
    assert bench.summary([0.3, 0.1, 0.2]) == {"min": 0.1, "median": 0.2, "max": 0.3}
