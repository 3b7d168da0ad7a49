"""tools/launch.py: a run of several processes by one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from helpers.processes import ROOT, TINY_CONFIG


def launch(workdir, *flags: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/launch.py", "--num_workers=2", "--", f"--config={TINY_CONFIG}"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "JAXDIST_FAULT": fault}
    return subprocess.run(
        [*command, f"--workdir={workdir}", *flags], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )


def test_the_launcher_runs_and_reports_the_first_failure(tmp_path):
    good = launch(tmp_path / "good", "--config.max_updates=3")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "[worker 0] Validation accuracy" in good.stdout
    bad = launch(tmp_path / "bad", fault="kill@process=1,point=compile")
    assert bad.returncode == 128 + signal.SIGKILL, bad.stdout + bad.stderr
    assert bad.stderr.splitlines()[-1].startswith("worker 1 was ended by SIGKILL")
