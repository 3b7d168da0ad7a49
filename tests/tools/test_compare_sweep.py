"""`tools/compare_sweep.py`: kept runs as the tables of a sweep."""

from __future__ import annotations

import json
import shutil

import compare_sweep
import operator_kinds
import pytest
import sweep_tables
from helpers.processes import ROOT

from jaxdist.ops import kinds
from jaxdist.profiling.naming import HAVE_BACKWARD

RESULTS = ROOT / "experiments" / "results" / "densenet_fmnist_6000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two batch sizes with two systems; both have tables of operators at the smaller one; one run is unfinished."""
    made = tmp_path_factory.mktemp("sweep")
    for batch in (96, 1536):
        for system in ("torch_2x1", "allreduce_2x1"):
            run = made / f"batch_{batch}" / system / "seed0"
            shutil.copytree(RESULTS / "seed0", run)
            config = json.loads((run / "config.json").read_text())
            (run / "config.json").write_text(json.dumps(config | {"global_batch_size": batch}))
    small = made / "batch_96"
    rows = [{"kind": operator_kinds.MATRIX, "calls": 3, "self_ms": 4.0}, {"kind": operator_kinds.RELU, "self_ms": 1.0}]
    (small / "torch_2x1" / "seed0" / "operators.json").write_text(json.dumps({"rows": rows}))
    profiles = small / "allreduce_2x1" / "seed0" / "profile" / "updates_3-9"
    profiles.mkdir(parents=True)
    for number, ms in enumerate((7.0, 9.0)):
        (profiles / f"worker-{number}.json").write_text(json.dumps([{"kind": operator_kinds.MATRIX, "self_ms": ms}]))
    (made / "batch_1536" / "torch_2x1" / "seed0" / "summary.json").unlink()
    return made


def test_tables_have_a_row_for_each_batch_and_system(folder):
    sweep = sweep_tables.read_sweep(folder)
    summary = json.loads((RESULTS / "seed0" / "summary.json").read_text())
    assert sweep.points == ["batch_96", "batch_1536"] and sweep.unfinished == ["batch_1536/torch_2x1/seed0"]
    table = sweep_tables.phases(sweep)
    assert [row[:2] for row in table] == [
        ["batch", "system"], ["96", "allreduce_2x1"], ["96", "torch_2x1"], ["1536", "allreduce_2x1"]
    ]  # fmt: skip
    assert table[1][table[0].index("train")] == f"{summary['phase_seconds']['train']:.1f}"
    speed = sweep_tables.training(sweep)
    assert speed[1][speed[0].index("ms a global batch")] == f"{96e3 / summary['images_per_second']:.1f}"
    assert sweep_tables.operators(sweep, "batch_96") == [
        ["kind", "allreduce_2x1, ms", "torch_2x1, ms", "torch_2x1 / allreduce_2x1"],
        ["matrix product", "8.00", "4.00", "0.50"],
        ["ReLU", "-", "1.00", "-"],
        ["all", "8.00", "5.00", "0.62"],
    ]
    assert sweep_tables.operators(sweep, "batch_1536") == []


def test_the_report_and_a_pages_tables_are_made_by_one_command(folder, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\n<!-- sweep a -->\nold\n<!-- end of sweep a -->\n\nlast words\n")
    arguments = [str(folder), f"--out={tmp_path / 'report'}", f"--keep={tmp_path / 'kept'}", f"--page={page}"]
    assert compare_sweep.main([*arguments, "--name=a"]) == 0
    text = page.read_text()
    assert "### Seconds by phase" in text and "old" not in text and text.endswith("\n\nlast words\n")
    html = (tmp_path / "report" / "sweep.html").read_text()
    assert "<svg" in html and "<script" not in html and "Not in the tables: batch_1536/torch_2x1." in html
    again = sweep_tables.read_sweep(tmp_path / "kept")
    assert sweep_tables.operators(again, "batch_96") == sweep_tables.operators(
        sweep_tables.read_sweep(folder), "batch_96"
    )
    capsys.readouterr()
    assert compare_sweep.main([*arguments, "--name=b"]) == 2
    assert "it must have <!-- sweep b -->" in capsys.readouterr().err
    assert compare_sweep.main([str(tmp_path)]) == 2 and "has no run POINT/SYSTEM/seedN" in capsys.readouterr().err


def test_our_kinds_are_said_in_the_words_of_all_systems():
    words = {
        kind: operator_kinds._as_others_say(kind) for kind in ("all-reduce", "data wait", "XLA's executor", "loss")
    }
    assert words == {"all-reduce": "collective", "data wait": "data", "XLA's executor": "other", "loss": "loss"}
    assert operator_kinds._as_others_say("addition + ReLU + dropout") == "ReLU"
    # Every kind of an operator of ours that PyTorch has under some name has that name.
    for kind in kinds.KINDS:
        for name in (kind, f"{kind} backward") if kind in HAVE_BACKWARD else (kind,):
            assert operator_kinds._as_others_say(name) != "other", name


def test_cpu_is_the_mean_over_the_time_between_a_run_s_begin_and_its_end(tmp_path):
    run = tmp_path / "batch_96" / "torch_1x1" / "seed0"
    (run / "system").mkdir(parents=True)
    (run / "config.json").write_text('{"global_batch_size": 96}')
    (run / "summary.json").write_text('{"elapsed_seconds": 10.0}')
    clock = {"kind": "event", "event": "clock", "time": 0.0, "unix_time_of_0": 1000.0, "updates": 0}
    (run / "metrics.jsonl").write_text(json.dumps(clock) + "\n")
    taken = ((-1.0, 2.0, 2.0), (2.0, 2.0, 0.5), (4.0, 2.0, 0.5), (4.5, 0.5, 1.4), (11.0, 2.0, 2.0))
    rows = [
        {"unix_time": 1000.0 + at, "seconds": seconds, "host": "a", "host_cores": 2, "host_cpu_user": user}
        for at, seconds, user in taken
    ]
    (run / "system" / "worker-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ((one,),) = sweep_tables.read_sweep(tmp_path).cells.values()
    assert sweep_tables._cpu_part("host_cpu_user")(one) == pytest.approx((4.0 * 0.5 + 0.5 * 1.4) / 4.5 / 2)
