"""The tools: launcher's signals, comparison of runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from processes import ROOT, wait_for_update


def test_the_launcher_forwards_sigterm_and_exits_75(tmp_path):
    command = [sys.executable, "tools/launch.py", "--num_workers=2", "--", "--config=tests/tiny_config.py"]
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


def test_compare_runs_shows_finished_and_unfinished_runs(tmp_path):
    results = ROOT / "experiments" / "results" / "densenet_fmnist_6000"
    (tmp_path / "begun").mkdir()
    command = [sys.executable, "tools/compare_runs.py", str(results / "seed0"), str(tmp_path / "begun")]
    run = subprocess.run([*command, f"--out={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode in (0, 1), run.stderr  # 1: matplotlib is an extra, and not installed
    accuracy = json.loads((results / "seed0" / "summary.json").read_text())["validation_accuracy"]
    assert f"{accuracy:.2%}" in run.stdout
    assert "| begun | unfinished" in (tmp_path / "comparison.md").read_text()


def test_the_bench_counts_the_operations_of_a_model(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from bench_train import MODELS, forward_flops

    from jaxdist import models

    spec = MODELS["densenet"]
    chain = models.build(spec["name"], input_shape=spec["shape"], num_classes=10, settings=spec["settings"], options={})
    pixels, channels, products = 28 * 28, 24, 28 * 28 * 9 * 24  # the stem
    for stage in (1, 2, 3):
        for _ in range(6):
            products += pixels * (channels * 48 + 9 * 48 * 12)
            channels += 12
        if stage < 3:
            products += pixels * channels * channels // 2
            pixels, channels = pixels // 4, channels // 2
    assert forward_flops(chain) == 2 * (products + channels * 10)
