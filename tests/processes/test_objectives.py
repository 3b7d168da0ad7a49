"""Regression on a dict of inputs over real processes: the numbers of one process, in the state and in every metric."""

from __future__ import annotations

import json

import pytest
from helpers.outcomes import final_state
from helpers.processes import finish, long, rows
from helpers.reference import assert_same

CONFIG = "tests/helpers/regression_config.py"
UPDATES = 10


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run directory of the single-device run, in halves as two replicas have them."""
    folder = tmp_path_factory.mktemp("alone")
    settings = {"strategy__name": "single", "strategy__accumulate": 2, "eval_every_epochs": 0.25}
    summary = finish(folder, 1, config=CONFIG, max_updates=UPDATES, **settings)
    assert summary["validation_sigma_nmad"] > 0 and "validation_accuracy" not in summary
    assert {"loss", "mean_absolute_error"} <= rows(folder, "train")[UPDATES].keys()
    assert "accuracy" not in rows(folder, "train")[UPDATES]
    return folder


PIPELINE = {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"}


@pytest.mark.parametrize(
    ("servers", "settings"),
    [(2, {"strategy__max_staleness": 0}), (0, PIPELINE), long(0, {}), long(0, {"strategy__spmd": "pmap"})],
    ids=["servers", "pipeline", "allreduce", "pmap"],
)
def test_two_processes_are_one(x64, alone, tmp_path, servers, settings):
    settings = settings | {"max_updates": UPDATES, "eval_every_epochs": 0.25}
    summary = finish(tmp_path, 2, servers=servers, config=CONFIG, **settings)
    assert_same(final_state(tmp_path), final_state(alone), 1e-9)
    whole = json.loads((alone / "summary.json").read_text())
    for key, value in whole.items():
        if key.startswith(("train_", "validation_")):
            assert summary[key] == pytest.approx(value, rel=1e-9, abs=1e-12), key
    for kind in ("train", "eval"):
        one, other = rows(alone, kind)[UPDATES], rows(tmp_path, kind)[UPDATES]
        shared = ("loss", "mean_absolute_error", "sigma_nmad", "outliers_0.01")
        assert {k: other[k] for k in shared if k in one} == pytest.approx({k: one[k] for k in shared if k in one})
