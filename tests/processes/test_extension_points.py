"""What somebody adds runs as what is built in does: a strategy, an optimizer, a schedule, a model, a data set."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from helpers.outcomes import final_state
from helpers.processes import Run, finish, rows, wait_for_checkpoint

import jaxdist
from jaxdist import strategies
from jaxdist.optim.optimizers import OPTIMIZERS
from jaxdist.optim.schedules import SCHEDULES
from jaxdist.state import flatten
from jaxdist.state.train_state import stored_arrays

CONFIG = "tests/helpers/own/every_second_config.py"


def test_of_somebodys_own_over_two_processes_and_resumed_exactly(tmp_path, caplog, x64):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    summary = finish(whole, 2, config=CONFIG)
    assert summary["updates"] == 16 and summary["examples_seen"] == 32 * 12
    assert summary["validation_accuracy"] == 1.0
    for row in rows(whole, "train").values():  # the schedule's rate at the examples seen before the row's last step
        assert row["learning_rate"] == pytest.approx(0.1 * (1 - 0.9 * (row["examples_seen"] - 12) / 384))
    # Killed at the tenth step, once the checkpoint of the ninth is on the disk.
    with Run(parts, 2, config=CONFIG, fault="stop@process=1,update=5") as run:
        wait_for_checkpoint(parts, 4)
        run.processes[1].kill()
        codes = [ended.code for ended in run.wait()]
    assert codes == [1, -signal.SIGKILL]
    kept = final_state(parts)
    assert kept.examples_seen % 24 == 12  # gathered, and not applied
    own = kept.strategy_state["every_second"]
    assert int(own["steps"]) * 12 == kept.examples_seen
    assert all(np.any(leaf) for name, leaf in flatten(own["gathered"]).items() if name.endswith("kernel"))
    finish(parts, 2, config=CONFIG)
    a, b = (stored_arrays(final_state(folder)) for folder in (whole, parts))
    assert {"opt_state/1.count", "opt_state/2.trace/hidden/Dense_0/kernel"} <= a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert rows(whole, "eval") == rows(parts, "eval") and rows(whole, "train") == rows(parts, "train")
    assert json.loads((whole / "config.json").read_text())["strategy.every"] == 2
    # Under another strategy, here in this process, what this one has kept is of no use, and the log says so.
    registered = strategies.SPECS, OPTIMIZERS, SCHEDULES
    before = [dict(table) for table in registered]
    try:
        from helpers.own import every_second_config  # registers them

        config = every_second_config.get_config()
        config.strategy.name, config.num_epochs = "single", 5.0
        with caplog.at_level("WARNING"):
            jaxdist.train_and_evaluate(config, str(whole))
    finally:
        for table, entries in zip(registered, before, strict=True):
            table.clear()
            table.update(entries)
    assert "What every_second has kept besides the model" in caplog.text
    assert final_state(whole).strategy_state == {} and final_state(whole).updates == 16 + 8
