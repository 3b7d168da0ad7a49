"""`tools/compare_runs.py` (and, where matplotlib is installed, `run_plots.py`): kept results as one table and page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import compare_runs
from helpers.processes import ROOT

RESULTS = ROOT / "experiments" / "results" / "densenet_fmnist_6000"


def compare(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/compare_runs.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_compare_runs_shows_seeds_together_and_unfinished_runs(tmp_path):
    (tmp_path / "begun").mkdir()
    run = compare(*sorted(RESULTS.glob("seed*")), tmp_path / "begun", f"--out={tmp_path}")
    assert run.returncode == 0, run.stderr
    found = [json.loads((RESULTS / f"seed{k}" / "summary.json").read_text())["validation_accuracy"] for k in range(3)]
    cell = f"{100 * sum(found) / 3:.2f} [{100 * min(found):.2f}, {100 * max(found):.2f}]"
    assert "| densenet_fmnist_6000 | 3 | " in run.stdout and cell in run.stdout
    assert "| begun | unfinished" in (tmp_path / "comparison.md").read_text()
    page = (tmp_path / "comparison.html").read_text()
    assert cell in page and "<svg" in page and "<script" not in page and 'src="' not in page and 'rel="' not in page


def test_runs_of_different_models_are_refused(tmp_path, monkeypatch, capsys):
    def no_pictures(_):
        raise ImportError("no matplotlib here")

    monkeypatch.setattr(compare_runs, "_pictures", no_pictures)
    other = tmp_path / "other" / "seed0"
    shutil.copytree(RESULTS / "seed0", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model.depth": 22, "global_batch_size": 104}))
    arguments = [str(RESULTS / "seed0"), str(other), f"--out={tmp_path}"]
    assert compare_runs.main(arguments) == 2
    words = "different models or data: model.depth is 40 in densenet_fmnist_6000/seed0, 22 in other/seed0"
    assert words in capsys.readouterr().err
    assert compare_runs.main([*arguments, "--anyway"]) == 1
    said = capsys.readouterr()
    assert "Differs: global_batch_size is 52 in" in said.out
    assert "No plots: they need the extra 'report' (no matplotlib here)." in said.err
    assert "<svg" not in (tmp_path / "comparison.html").read_text()


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert compare_runs.main([str(tmp_path / "nowhere")]) == 2
    assert f"Not a run directory: {tmp_path / 'nowhere'}." in capsys.readouterr().err


def test_runs_without_an_accuracy_are_compared_by_their_first_metric(tmp_path, capsys):
    for seed, errors in ((0, (0.3, 0.1)), (1, (0.4, 0.2))):
        folder = tmp_path / "redshift" / f"seed{seed}"
        folder.mkdir(parents=True)
        rows = [
            {"kind": "eval", "time": 10.0 * k, "updates": k, "epoch": k, "examples_seen": 12 * k, "loss": error / 2,
             "mean_absolute_error": error, "sigma_nmad": None if k == 1 else error / 3}
            for k, error in enumerate(errors, 1)
        ]  # fmt: skip
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.json").write_text(json.dumps({"seed": seed}))
        summary = {f"validation_{key}": rows[-1][key] for key in ("loss", "mean_absolute_error", "sigma_nmad")}
        (folder / "summary.json").write_text(json.dumps(summary | {"train_mean_absolute_error": 0.05}))
    compare_runs.main([*map(str, sorted((tmp_path / "redshift").iterdir())), f"--out={tmp_path}"])
    header, _, row = capsys.readouterr().out.splitlines()[:3]
    assert "| training mean absolute error | validation mean absolute error | validation sigma nmad |" in header
    assert "s to 0.2 |" in header and "| 0.05 [0.05, 0.05] | 0.15 [0.1, 0.2] | 0.05 [0.03333, 0.06667] |" in row
    assert "| 20 [20, 20] |" in row and "<svg" in (tmp_path / "comparison.html").read_text()


def test_the_targets_of_each_worker_are_a_table_and_a_figure(tmp_path, capsys):
    for name, more in (("numbers", {"target_edges": [0.0, 0.25, 0.5]}), ("classes", {})):
        folder = tmp_path / name / "seed0"
        folder.mkdir(parents=True)
        row = {
            "kind": "eval",
            "time": 1.0,
            "updates": 1,
            "epoch": 1.0,
            "examples_seen": 7,
            "loss": 0.5,
            "accuracy": 0.5,
        }
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (folder / "config.json").write_text(json.dumps({"seed": 0}))
        found = {"partition": "iid", "examples_per_worker": [3, 4], "targets_per_worker": [[1, 2], [4, 0]]} | more
        (folder / "summary.json").write_text(json.dumps(found | {"validation_accuracy": 0.5}))
    runs = [str(tmp_path / name / "seed0") for name in ("numbers", "classes")]
    compare_runs.main([*runs, f"--out={tmp_path}"])
    said = capsys.readouterr().out
    assert "| run | partition | worker | examples | 0 to 0.25 | 0.25 to 0.5 |" in said
    assert "| numbers | iid | 1 | 4 | 4 | 0 |" in said and "| classes | iid | 0 | 3 | 1 | 2 |" in said
    assert "| run | partition | worker | examples | 0 | 1 |" in said
    assert (tmp_path / "partition.png").stat().st_size > 1000
    assert "Examples of each worker" in (tmp_path / "comparison.html").read_text()
