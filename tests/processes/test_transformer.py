"""A transformer over parameter servers: the numbers of one process, in the state and in the metrics of elements."""

from __future__ import annotations

import pytest
from helpers.outcomes import final_state
from helpers.processes import finish, rows
from helpers.reference import assert_same

SETTINGS = {
    "config": "experiments/transformer_numbers.py",
    "model__param_dtype": "float64",
    "model__options__width": 8,
    "model__options__layers": 1,
    "data__options__num_train": 96,
    "data__options__num_eval": 20,
    "global_batch_size": 12,
    "max_updates": 8,
    "num_epochs": 1.0,
    "log_every_steps": 4,
}


@pytest.mark.long
def test_two_workers_and_two_servers_are_one_process(x64, tmp_path):
    finish(tmp_path / "alone", 1, strategy__name="single", strategy__accumulate=2, **SETTINGS)
    finish(tmp_path / "served", 2, servers=2, strategy__max_staleness=0, **SETTINGS)
    assert_same(final_state(tmp_path / "served"), final_state(tmp_path / "alone"), 1e-9)
    one, other = (rows(tmp_path / name, "eval")[8] for name in ("alone", "served"))
    assert other["accuracy"] == pytest.approx(one["accuracy"]) and other["loss"] == pytest.approx(one["loss"])
