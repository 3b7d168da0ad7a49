"""`--warm_up` (`roles/warm_up.py`): the run that follows compiles nothing, and finds no trace of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers.processes import ROOT, environment, long, main_command


def launched(workdir, tmp_path, strategy, *flags, servers):
    values = {"compilation_cache": tmp_path / "cache", "strategy__name": strategy, "num_epochs": 1.0}
    command = main_command(workdir, *flags, **values)[3:]
    ended = subprocess.run(
        [sys.executable, "tools/launch.py", "--num_workers=2", f"--num_servers={servers}", "--", *command],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize(("strategy", "servers"), [("allreduce", 0), long("parameter_server", 1)])
def test_the_run_after_it_compiles_nothing(tmp_path, strategy, servers):
    said = launched(tmp_path / "run", tmp_path, strategy, "--warm_up", servers=servers)
    assert said.count("warmed up: ") == 2
    assert os.listdir(tmp_path) == ["cache"]
    launched(tmp_path / "run", tmp_path, strategy, servers=servers)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["updates"] > 1 and summary["programs_compiled"] == [0, 0]


def test_without_a_cache_there_is_nothing_to_fill(tmp_path):
    command = main_command(tmp_path / "run", "--warm_up", compilation_cache="off")
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and "--warm_up fills the compilation cache" in ended.stderr
    assert not (tmp_path / "run").exists()
