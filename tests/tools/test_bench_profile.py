"""`tools/bench_profile.py`: the table of one made-up batch, by kind."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from bench_profile import line_of

from jaxdist.profiling.table import Row, Table
from jaxdist.profiling.trace import Intervals

ROOT = pathlib.Path(__file__).resolve().parents[2]


def row(kind, layer, self_ms):
    return Row(kind, layer, "", 1.0, self_ms, self_ms, self_ms / 10)


def test_layers_are_added_up_by_kind_and_what_is_small_is_left_out(tmp_path):
    rows = [row("copy", "a", 2.5), row("ReLU", "a", 3.0), row("copy", "b", 4.456), row("loss", "", 0.044)]
    table = Table(rows, 10.0, [], Intervals([], [], [], []), [])
    found = line_of(table)
    assert found == {"total_ms": 10.0, "ms": {"copy": 6.96, "ReLU": 3.0}} and next(iter(found["ms"])) == "copy"


@pytest.mark.long
def test_one_made_up_batch_is_profiled():
    command = [sys.executable, "tools/bench.py", "profile", "--model=cnn", "--batch=4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    line = json.loads(run.stdout)
    assert (line["bench"], line["model"], line["batch"]) == ("profile", "cnn", 4)
    assert sum(line["ms"].values()) == pytest.approx(line["total_ms"], rel=0.05)
    assert {"convolution forward", "convolution kernel gradient", "optimizer update"} <= line["ms"].keys()
    assert line["ms"].get("not attributed", 0.0) < 0.25 * line["total_ms"]  # waiting in Python, between small steps
