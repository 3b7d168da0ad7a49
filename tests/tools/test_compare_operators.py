"""`tools/compare_operators.py` (`compare_runs.py --operators`): both tables, the ratio, and what cannot be compared."""

from __future__ import annotations

import csv
import json

import compare_runs
import pytest
from helpers.profile_parts import row, write_part

WINDOW = "profile/updates_3-6"


def operators(folder, content, **config):
    folder.mkdir()
    (folder / "operators.json").write_text(json.dumps(content))
    if config:
        (folder / "config.json").write_text(json.dumps(config))


def test_two_runs_of_ours(tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    rows = [row("convolution forward", 10.0, "x", calls=2.0), row("convolution forward", 30.0, "y"), row("copy", 8.0)]
    write_part(a / WINDOW, "worker-0", rows, step_ms=50.0)
    write_part(a / "profile/updates_20-22", "worker-0", rows, window="updates_20-22", updates=[20, 22])
    write_part(b / WINDOW, "worker-0", [row("convolution forward", 20.0, "z"), row("data wait", 5.0)], step_ms=25.0,
               strategy="parameter_server", num_processes=4, cut=True, updates=[3, 5])  # fmt: skip
    assert compare_runs.main(["--operators", str(a), str(b), f"--out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"Self ms of one step. A: {a} (worker-0 of allreduce). B: {b} (worker-0 of parameter_server)."
    )
    lines = [line for line in said.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| convolution forward | 3 | 40.000 | 40.0% | 1 | 20.000 | 20.0% | 0.50 |",
        "| copy | 1 | 8.000 | 8.0% | - | - | - | - |",
        "| data wait | - | - | - | 1 | 5.000 | 5.0% | - |",
        "| whole step | - | 50.000 | 100.0% | - | 25.000 | 100.0% | 0.50 |",
    ]
    assert f"The profile of worker-0 in {b} was cut: of the updates 4 to 6 it has the updates 4 to 5." in said
    assert (tmp_path / "out" / "operators.md").read_text() == said
    with open(tmp_path / "out" / "operators.csv") as file:
        first = next(csv.DictReader(file))
    assert (first["kind"], first["ms_a"], first["ms_b"], first["ratio"]) == (
        "convolution forward",
        "40.0",
        "20.0",
        "0.5",
    )


def test_a_table_of_another_system(tmp_path, capsys):
    """Its words are coarser: collectives of all kinds are one row, then."""
    ours = tmp_path / "ours"
    rows = [row("all-reduce", 6.0), row("all-gather", 2.0), row("data wait", 1.0), row("ReLU backward", 4.0)]
    write_part(ours / WINDOW, "worker-0", rows)
    theirs = [{"kind": kind, "calls": 1, "self_ms": ms, "share": 0.1} for kind, ms in
              (("collective", 16.0), ("data", 3.0), ("ReLU backward", 2.0))]  # fmt: skip
    operators(tmp_path / "theirs", {"rows": theirs, "step_ms": 80.0}, **{"model.name": "cnn", "seed": 3})
    assert compare_runs.main(["--operators", str(ours), str(tmp_path / "theirs")]) == 0
    said = capsys.readouterr().out
    assert "| collective | 2 | 8.000 | 8.0% | 1 | 16.000 | 10.0% | 2.00 |" in said
    assert "| data | 1 | 1.000 | 1.0% | 1 | 3.000 | 10.0% | 3.00 |" in said
    assert "| ReLU backward | 1 | 4.000 | 4.0% | 1 | 2.000 | 10.0% | 0.50 |" in said and "not checked" not in said
    operators(tmp_path / "unknown", theirs)
    assert compare_runs.main(["--operators", str(ours), str(tmp_path / "unknown")]) == 0
    words = f"{tmp_path / 'unknown'}: of which model is not said; that both are of one was not checked."
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("b", "more", "words"),
    [
        ({"config": {"model.name": "resnet", "data.name": "mnist"}}, [],
         "models, data or batches: data.name is digits in A and mnist in B; model.name is cnn in A and resnet"),
        ({}, ["--process=worker-9"], "has no profile of worker-9; it has worker-0."),
        ({}, ["--window=updates_1-2"], "has no window updates_1-2; it has updates_3-6."),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said(tmp_path, capsys, b, more, words):
    write_part(tmp_path / "A" / WINDOW, "worker-0")
    write_part(tmp_path / "B" / WINDOW, "worker-0", **b)
    assert compare_runs.main(["--operators", str(tmp_path / "A"), str(tmp_path / "B"), *more]) == 2
    said = capsys.readouterr()
    assert words in said.err.replace(f"{tmp_path}/", "") and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "neither profile/*/PROCESS.json nor operators.json"), ([{"kind": "copy"}], "no rows with kind")],
)  # fmt: skip
def test_a_folder_without_a_table_is_said(tmp_path, capsys, content, words):
    write_part(tmp_path / "A" / WINDOW, "worker-0")
    if content is None:
        (tmp_path / "B").mkdir()
    else:
        operators(tmp_path / "B", content)
    assert compare_runs.main(["--operators", str(tmp_path / "A"), str(tmp_path / "B")]) == 2
    assert words in capsys.readouterr().err
