"""`tools/reproduce.py`: what it would run, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

from helpers.processes import ROOT


def test_reproduce_lists_its_commands_and_refuses_unknown_runs(tmp_path):
    command = [sys.executable, "tools/reproduce.py", "experiments/strategy_switch.py", f"--out={tmp_path}"]
    command += ["--scale=0.1", "--seeds=0,1"]
    listed = subprocess.run([*command, "--list", "--", "--config.max_updates=3"], cwd=ROOT, capture_output=True,
                            text=True, timeout=60)  # fmt: skip
    lines = listed.stdout.splitlines()
    assert len(lines) == 14 and all(line.endswith("--config.max_updates=3") for line in lines)
    assert "--config.strategy.schedule=allreduce:0.25,parameter_server" in lines[2] and "seed1" in lines[7]
    refused = subprocess.run([*command, "--only=alreduce"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "has no run alreduce; it has allreduce, parameter_server" in refused.stderr
