"""Callbacks of a user's: the same moments on every strategy and process; one that fails ends the run."""

from __future__ import annotations

import json
import sys

import pytest
from free_ports import free_port
from helpers.processes import Run, start


def run(folder, *, servers="", schedule="", raises=()):
    """Two processes; their exit codes, outputs and diaries."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "helpers.own.with_callbacks", str(folder)]
    both = [start([*command, str(i), address, servers, schedule, *raises], {}) for i in range(2)]
    outputs = [p.communicate(timeout=120)[0] for p in both]
    diaries = [[json.loads(line) for line in (folder / f"diary-{i}").read_text().splitlines()] for i in range(2)]
    return [p.returncode for p in both], outputs, diaries


def moments(diary):
    return [line[0] for line in diary]


def test_one_that_fails_ends_the_run_on_all_processes(tmp_path):
    codes, outputs, diaries = run(tmp_path, raises=("raise",))
    assert codes == [1, 1], outputs
    assert "RuntimeError: a callback of somebody's own failed" in outputs[1] and "Traceback" in outputs[1]
    assert "process 1 failed: RuntimeError: a callback of somebody's own failed" in outputs[0]
    assert diaries[1] == [["start", "allreduce", 0, 0.05], ["logged", "allreduce", 3, 3], ["logged", "allreduce", 6, 6]]
    assert diaries[0][:3] == diaries[1]


@pytest.mark.long
def test_every_moment_of_a_run_in_phases(tmp_path):
    schedule = "allreduce:0.5,parameter_server(max_staleness=0)"
    overrides = {"strategy.name": "switch", "strategy.schedule": schedule, "num_epochs": 1.0}
    with Run(tmp_path, 0, servers=1, **{k.replace(".", "__"): v for k, v in overrides.items()}) as server:
        codes, outputs, (chief, other) = run(tmp_path, servers=server.addresses[0], schedule=schedule)
        assert codes == [0, 0], outputs
        assert [e.code for e in server.wait()] == [0]
    every = ("start", "logged", "evaluated", "saved", "phase_changed", "end")
    assert set(moments(chief)) == set(every)
    assert moments(chief)[0] == "start" and moments(chief)[-1] == "end" == moments(other)[-1]
    assert next(line for line in chief if line[0] == "saved")[3] == 10
    assert [line for line in chief if line[0] == "phase_changed"] == [
        ["phase_changed", "parameter_server(max_staleness=0)", 10, "parameter_server(max_staleness=0)"]
    ]
    assert chief[-1][2:] == [20, 20] and ["evaluated", "parameter_server(max_staleness=0)", 20, 20] in chief
    assert {"start", "logged", "phase_changed", "end"} <= set(moments(other))
