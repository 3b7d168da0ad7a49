"""Branches of a model on different processes, side by side: the numbers of one process, exact when resumed."""

from __future__ import annotations

import json
import random

import pytest
from helpers.outcomes import final_state
from helpers.processes import Run, finish, long, rows, wait_for_checkpoint, wait_for_update
from helpers.reference import assert_same

CONFIG = "tests/helpers/regression_config.py"
MODEL = {"model__name": "helpers.branching:build", "config": CONFIG, "optim__clip_global_norm": 0.05}
BRANCHES = {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__branch_parallel": True}
UPDATES = 10


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish(folder, 1, max_updates=UPDATES, strategy__name="single", strategy__accumulate=2, **MODEL)
    return folder


@pytest.mark.parametrize(
    ("processes", "settings"),
    [(2, {"strategy__pipeline_schedule": "1f1b"}), long(1, {}), long(2, {}), long(3, {}),
     long(3, {"strategy__pipeline_schedule": "1f1b", "strategy__remat": True}),
     long(2, {"strategy__branch_parallel": False})],
)  # fmt: skip
def test_processes_equal_the_single_device_run(x64, alone, tmp_path, processes, settings):
    summary = finish(tmp_path, processes, max_updates=UPDATES, **MODEL, **BRANCHES | settings)
    assert_same(final_state(tmp_path), final_state(alone), 1e-9)
    one, other = rows(alone, "eval")[UPDATES], rows(tmp_path, "eval")[UPDATES]
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert other["sigma_nmad"] == pytest.approx(one["sigma_nmad"])
    if settings.get("strategy__branch_parallel", True):
        assert set(summary["stage_processes"]) == set(range(processes))
        blocks = {name for stage in summary["stage_blocks"] for name in stage}
        assert blocks == {"first", "second", "other", "merge", "deep", "head"}


def test_killed_and_resumed_it_goes_on_with_its_places(x64, tmp_path):
    settings = MODEL | BRANCHES | {"checkpoint__every_updates": 7, "num_epochs": 200.0}
    slowly = "delay@process=0,seconds=0.05"
    with Run(tmp_path / "parts", 2, fault=slowly, **settings) as run:
        wait_for_checkpoint(tmp_path / "parts", 7)
        wait_for_update(tmp_path / "parts", random.randrange(7, 20))
        run.processes[1].kill()
        run.loses(1, "kill")
    for folder in ("parts", "whole"):
        finish(tmp_path / folder, 2, max_updates=30, **settings)
    assert_same(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"), 1e-9)


@pytest.mark.long
def test_two_replicas_of_branches(x64, tmp_path):
    finish(tmp_path / "alone", 1, max_updates=6, strategy__name="single", strategy__accumulate=4, **MODEL)
    summary = finish(tmp_path / "branches", 4, max_updates=6, strategy__replicas=2, **MODEL, **BRANCHES)
    assert_same(final_state(tmp_path / "branches"), final_state(tmp_path / "alone"), 1e-9)
    timeline = json.loads((tmp_path / "branches" / "summary.json").read_text())["timeline"]
    assert {stage["process"] for stage in timeline} == {0, 1, 2, 3} and summary["replicas"] == 2


def test_a_chain_has_no_branches(tmp_path):
    with Run(tmp_path, 2, **MODEL | {"model__name": "helpers.branching:chain"}, **BRANCHES) as run:
        ended = run.wait()
    assert {e.code for e in ended} == {2}
    assert "the blocks of this model are a chain: leave it out" in ended[0].error
