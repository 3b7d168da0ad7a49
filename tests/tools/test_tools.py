"""The tools: launcher's signals, comparison of runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

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


RESULTS = ROOT / "experiments" / "results" / "densenet_fmnist_6000"


def compare(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/compare_runs.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_compare_runs_shows_seeds_together_and_unfinished_runs(tmp_path):
    (tmp_path / "begun").mkdir()
    run = compare(*sorted(RESULTS.glob("seed*")), tmp_path / "begun", f"--out={tmp_path}")
    assert run.returncode in (0, 1), run.stderr  # 1: matplotlib is an extra, and not installed
    found = [json.loads((RESULTS / f"seed{k}" / "summary.json").read_text())["validation_accuracy"] for k in range(3)]
    cell = f"{100 * sum(found) / 3:.2f} [{100 * min(found):.2f}, {100 * max(found):.2f}]"
    assert "| densenet_fmnist_6000 | 3 | " in run.stdout and cell in run.stdout
    assert "| begun | unfinished" in (tmp_path / "comparison.md").read_text()
    page = (tmp_path / "comparison.html").read_text()
    assert cell in page and "<script" not in page and 'src="' not in page and 'rel="' not in page


def test_runs_of_different_models_are_refused(tmp_path):
    other = tmp_path / "other" / "seed0"
    shutil.copytree(RESULTS / "seed0", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model.depth": 22, "global_batch_size": 104}))
    run = compare(RESULTS / "seed0", other, f"--out={tmp_path}")
    assert run.returncode == 2
    assert "different models or data: model.depth is 40 in densenet_fmnist_6000/seed0, 22 in other/seed0" in run.stderr
    run = compare(RESULTS / "seed0", other, f"--out={tmp_path}", "--anyway")
    assert run.returncode in (0, 1) and "Differs: global_batch_size is 52 in" in run.stdout


def write_run(folder, *, starts, samples):
    """A run directory with the `clock` events and samples given."""
    (folder / "system").mkdir(parents=True)
    lines = [{"kind": "event", "event": "clock", "time": t, "unix_time_of_0": z, "updates": 0} for t, z in starts]
    lines += [{"kind": "eval", "time": 5.0, "updates": u, "epoch": 1.0, "loss": u, "accuracy": 0.5} for u in (3, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"kind": "ev')
    for process, times in samples.items():
        common = {"host": "a", "host_cores": 2, "host_cpu": 1.0, "host_sent_per_second": 0, "loopback_per_second": 100}
        rows = [common | {"unix_time": t, "memory_bytes": 10} for t in times]
        (folder / "system" / f"{process}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))


def test_samples_of_all_processes_are_on_the_run_s_clock(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from run_reader import cluster_samples, keep_small, read_run

    # Started at 1000, resumed at 2000 from a checkpoint at 40 s.
    samples = {"worker-0": range(1000, 1040, 2), "worker-1": [*range(1000, 1030, 2), *range(2000, 2010, 2)]}
    write_run(tmp_path / "x", starts=[(0.0, 1000.0), (40.0, 1960.0)], samples=samples)
    run = read_run(tmp_path / "x")
    assert [s["time"] for s in run.system["worker-1"][-5:]] == [40.0, 42.0, 44.0, 46.0, 48.0]
    assert len(run.evaluations) == 1 and run.summary is None
    found = cluster_samples(run)
    assert found["memory"][3] == 20 and found["network"][3] == 100 and found["cpu"][3] == 0.5
    keep_small(run, tmp_path / "kept", most_rows=10)
    kept = read_run(tmp_path / "kept")
    assert len(kept.system["worker-0"]) == 10
    assert kept.system["worker-0"][-1]["time"] == run.system["worker-0"][-1]["time"]


@pytest.mark.parametrize("smallest", range(1, 9))
def test_bisection_finds_the_smallest_share(monkeypatch, smallest):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from find_switch_point import bisect_share

    asked = []

    def good(share):
        asked.append(share)
        return share >= smallest

    assert bisect_share(range(1, 9), good) == smallest
    assert len(asked) == len(set(asked)) <= 3


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


@pytest.mark.long
def test_the_switch_point_is_searched_from_common_checkpoints(tmp_path):
    command = [sys.executable, "tools/find_switch_point.py", "tests/helpers/tiny_config.py", f"--out={tmp_path}"]
    command += ["--steps=2", "--tolerance=1.0", "--", "--config.num_epochs=4.0"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Smallest synchronous share within 1 of" in run.stdout and "25.0% of the run" in run.stdout
    log = (tmp_path / "switch_25.0" / "logs" / "worker-0.log").read_text()
    assert "The run goes on at the boundary before phase 2 of 2" in log
    assert json.loads((tmp_path / "switch_25.0" / "summary.json").read_text())["examples_seen"] == 960


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


def test_explain_sharding_says_what_lies_where(tmp_path):
    command = [sys.executable, "tools/explain_sharding.py", "--config=tests/helpers/tiny_config.py", "--devices=2"]
    command += ["--config.strategy.name=model_parallel", "--config.strategy.mesh=model:2"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| dense1_layer1/conv1/kernel | 1x1x8x16 | -, -, -, model | 0.5 | 0.3 |" in run.stdout
    assert "\n| all-reduce | " in run.stdout and "Over 1 Gbit/s" in run.stdout
    refused = subprocess.run([*command, "--config.strategy.mesh=data:3"], cwd=ROOT, env=env, capture_output=True,
                             text=True, timeout=120)  # fmt: skip
    assert refused.returncode == 2 and "data:3' is 3 = 3 devices, and there are 2" in refused.stderr
