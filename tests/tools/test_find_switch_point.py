"""`tools/find_switch_point.py`: the bisection, and a whole search."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from find_switch_point import bisect_share
from helpers.processes import ROOT, environment


@pytest.mark.parametrize("smallest", range(1, 9))
def test_bisection_finds_the_smallest_share(smallest):
    asked = []

    def good(share):
        asked.append(share)
        return share >= smallest

    assert bisect_share(range(1, 9), good) == smallest
    assert len(asked) == len(set(asked)) <= 3


@pytest.mark.long
def test_the_switch_point_is_searched_from_common_checkpoints(tmp_path):
    command = [sys.executable, "tools/find_switch_point.py", "tests/helpers/tiny_config.py", f"--out={tmp_path}"]
    command += ["--steps=2", "--tolerance=1.0", "--num_workers=1", "--", "--config.num_epochs=2.0"]
    env = environment()
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Smallest synchronous share within 1 of" in run.stdout and "25.0% of the run" in run.stdout
    log = (tmp_path / "switch_25.0" / "logs" / "worker-0.log").read_text()
    assert "The run goes on at the boundary before phase 2 of 2" in log
    assert json.loads((tmp_path / "switch_25.0" / "summary.json").read_text())["examples_seen"] == 480
