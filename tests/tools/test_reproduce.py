"""`tools/reproduce.py`: what it would run, what it refuses, and how it goes on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import reproduce
from helpers.processes import ROOT

SWEEP = ROOT / "experiments" / "system_comparison_a.py"


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


def test_a_sweep_has_every_batch_with_every_system_in_every_layout(tmp_path, capsys):
    assert reproduce.main([str(SWEEP), f"--out={tmp_path}", "--scale=0.001", "--against=torch", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 * 3 * 2
    assert all(f"--config.global_batch_size={batch} " in "".join(lines) for batch in (96, 192, 384, 768, 1536))
    alone = [line for line in lines if "_1x2/" in line]
    assert len(alone) == 15 and all("--num_workers=1 " in line and "--cpus_per_worker=2 " in line for line in alone)
    peers = [line for line in lines if "torch_run.py" in line]
    assert len(peers) == 10 and all(f"--reference={tmp_path / 'reference' / 'seed0'}" in line for line in peers)
    assert all("--num_servers=1" in line for line in lines if "parameter_server" in line)
    assert not list(tmp_path.iterdir())

    runs = reproduce.load_comparison(SWEEP, 0.001, 8)
    assert {name.rpartition("_")[2] for name in runs} == {"8x1", "4x2"}
    assert {(run["data.train_examples"], run["num_epochs"]) for run in runs.values()} == {(4 * 1536, 2)}
    whole = reproduce.load_comparison(SWEEP, 1.0, 2)
    assert {run["num_epochs"] for run in whole.values()} == {30} and "data.train_examples" not in whole[
        "batch_96/torch_2x1"
    ]


def test_a_peer_is_left_out_where_it_is_not_asked_for():
    runs = reproduce.load_comparison(SWEEP, 0.01, 2)
    assert not [name for name in reproduce.chosen(runs, "", "") if "torch" in name]
    assert reproduce.chosen(runs, "batch_96/*,batch_192/torch_2x1", "torch")[-1] == "batch_192/torch_2x1"
    with pytest.raises(ValueError, match="only with --against=torch"):
        reproduce.chosen(runs, "*/torch_*", "")


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """An experiment of three runs that end at once; the commands that were run."""
    experiment = tmp_path / "three.py"
    experiment.write_text(
        "def comparison(scale, num_workers):\n    return {'x/a_1x1': {}, 'x/b_1x1': {}, 'x/c_1x1': {}}\n"
    )
    ran: list[str] = []

    def run(name, command, folder, environ, where):
        ran.append(name)
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
        return 0, name == "x/b_1x1"  # a signal comes while it ends

    monkeypatch.setattr(reproduce, "_run", run)
    monkeypatch.setattr(reproduce, "_report", lambda *_, **__: 0)
    return experiment, tmp_path / "out", ran


def test_resume_does_only_what_is_missing(comparison, capsys):
    experiment, out, ran = comparison
    with pytest.raises(SystemExit) as refused:
        reproduce.main([str(experiment), f"--out={out}", "--resume"])
    assert refused.value.code == 2 and "holds no comparison" in capsys.readouterr().err

    first = [str(experiment), f"--out={out}", "--scale=0.5", "--seeds=3"]
    assert reproduce.main([*first, "--", "--config.max_updates=2"]) == 75 and ran == ["x/a_1x1", "x/b_1x1"]
    capsys.readouterr()
    assert reproduce.main([str(experiment), f"--out={out}", "--scale=0.25"]) == 2
    said = capsys.readouterr().err
    assert "scale was 0.5 and is 0.25; more was ['--config.max_updates=2'] and is []. Name another --out." in said

    assert reproduce.main([str(experiment), f"--out={out}", "--resume"]) == 0
    assert ran == ["x/a_1x1", "x/b_1x1", "x/c_1x1"] and (out / "x" / "c_1x1" / "seed3").is_dir()
    assert json.loads((out / reproduce.STARTED).read_text())["more"] == ["--config.max_updates=2"]


def test_after_its_minutes_nothing_is_started_and_what_is_missing_is_said(comparison, capsys):
    experiment, out, ran = comparison
    assert reproduce.main([str(experiment), f"--out={out}", "--minutes=1e-9"]) == 75
    assert ran == [] and "3 of 3 runs are missing, the same command goes on: x/a_1x1/seed0, " in capsys.readouterr().err


def test_a_part_that_is_gone_on_with_is_not_taken_for_the_whole(comparison):
    experiment, out, ran = comparison
    assert reproduce.main([str(experiment), f"--out={out}", "--seeds=3"]) == 75
    assert reproduce.main([str(experiment), f"--out={out}", "--resume", "--only=x/a_1x1", "--seeds=4"]) == 0
    assert ran == ["x/a_1x1", "x/b_1x1", "x/a_1x1"]
    assert reproduce.main([str(experiment), f"--out={out}", "--resume"]) == 0
    assert ran[3:] == ["x/c_1x1"] and (out / "x" / "c_1x1" / "seed3").is_dir()


def test_a_report_is_of_the_runs_that_were_begun(comparison, monkeypatch):
    experiment, out, ran = comparison
    reported: list[list[str]] = []
    monkeypatch.setattr(reproduce, "_report", lambda _, folders, **__: reported.append([*folders]) or 2)
    assert reproduce.main([str(experiment), f"--out={out}", "--minutes=1e-9"]) == 75 and reported == []
    (out / "x" / "b_1x1" / "seed0").mkdir(parents=True)
    assert reproduce.main([str(experiment), f"--out={out}", "--minutes=1e-9"]) == 2
    assert reported == [[out / "x" / "b_1x1" / "seed0"]] and ran == []
