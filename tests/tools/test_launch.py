"""`tools/launch.py`: a run of several processes by one command; signals reach it, and its end is the launcher's.

Servers that are started again and workers that are missed by nobody: `processes/`.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import launch
import pytest
from helpers.processes import ROOT, TINY_CONFIG, environment, wait_for_update

ENV = environment()


def command(workdir, *flags: str) -> list[str]:
    return [sys.executable, "tools/launch.py", "--num_workers=2", "--", f"--config={TINY_CONFIG}",
            f"--workdir={workdir}", *flags]  # fmt: skip


def launched(workdir, *flags: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    env = ENV | {"JAXDIST_FAULT": fault}
    return subprocess.run(command(workdir, *flags), cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_the_launcher_runs_and_reports_the_first_failure(tmp_path):
    good = launched(tmp_path / "good", "--config.max_updates=3")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "[worker 0] Validation accuracy" in good.stdout
    bad = launched(tmp_path / "bad", fault="kill@process=1,point=compile")
    assert bad.returncode == 128 + signal.SIGKILL, bad.stdout + bad.stderr
    assert bad.stderr.splitlines()[-1].startswith("worker 1 was ended by SIGKILL")


def test_the_launcher_forwards_sigterm_and_exits_75(tmp_path):
    with subprocess.Popen(
        command(tmp_path, "--config.num_epochs=500.0"),
        cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as launcher:  # fmt: skip
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
