"""`tools/launch.py`: signals reach the run, and its end is the launcher's (failures: `processes/`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import launch
import pytest
from helpers.processes import ROOT, wait_for_update


def test_the_launcher_forwards_sigterm_and_exits_75(tmp_path):
    command = [sys.executable, "tools/launch.py", "--num_workers=2", "--", "--config=tests/helpers/tiny_config.py"]
    command += [f"--workdir={tmp_path}", "--config.num_epochs=500.0"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        try:
            wait_for_update(tmp_path, 6)
            launcher.send_signal(signal.SIGTERM)
            output, _ = launcher.communicate(timeout=60)
        finally:
            launcher.kill()
    assert launcher.returncode == 75, output[-2000:]
    assert "First failure" not in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--num_workers=0"], "--num_workers must be at least 1"),
        (["--num_servers=-1"], "--num_servers must be at least 0"),
        (["--evaluator"], "at least 1 for an --evaluator"),
    ],
)
def test_runs_that_cannot_be_are_refused(capsys, options, words):
    with pytest.raises(SystemExit) as refused:
        launch.main([*options, "--", "--config=x"])
    assert refused.value.code == 2
    assert words in capsys.readouterr().err
