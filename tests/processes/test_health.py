"""A run whose numbers are of no use ends with 1, says since when, and keeps its last good checkpoint."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.outcomes import final_state
from helpers.processes import Run, finish, long, rows

from jaxdist.state import flatten

# At half an epoch, after ten updates, the learning rate becomes 5e298.
EXPLODES = {"optim__drop_epochs": "(0.5,)", "optim__drop_factor": 1e300, "checkpoint__every_updates": 4}
PIPELINE = {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"}


@pytest.mark.parametrize(
    ("n", "settings"),
    [
        (2, PIPELINE),
        long(1, {"strategy__name": "single"}),
        long(2, {}),
        long(2, {"strategy__name": "model_parallel", "strategy__shard_params": "fsdp"}),
    ],
)
def test_a_loss_that_explodes_ends_the_run(tmp_path, n, settings):
    with Run(tmp_path, n, **EXPLODES, **settings) as run:
        ended = run.wait(90)
    for process in ended:
        assert process.code == 1, process.output[-2000:]
        assert "training loss is nan since example" in process.error or "training loss is inf since" in process.error
    since = int(re.search(r"since example (\d+)", ended[0].error).group(1))
    assert 120 < since <= 120 + 4 * 12
    _the_newest_checkpoint_is_good(tmp_path, ended[0].error)
    losses = [row["loss"] for row in rows(tmp_path, "train").values()]
    assert None in losses and "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert not (tmp_path / "summary.json").exists()


def _the_newest_checkpoint_is_good(workdir, error: str) -> None:
    kept = final_state(workdir)
    assert kept.updates in (4, 8, 12)
    assert all(np.isfinite(leaf).all() for leaf in flatten(kept.arrays()).values())
    assert f"The newest checkpoint is {workdir.resolve() / 'checkpoints' / str(kept.updates)}." in error


@pytest.mark.long
@pytest.mark.parametrize("policy", [{}, {"health__nonfinite": "skip"}, {"strategy__nonfinite": "refuse"}])
def test_servers_that_refuse_all_that_follows_end_with_1(tmp_path, policy):
    with Run(tmp_path, 2, servers=1, **EXPLODES, **policy, global_batch_size=8) as run:
        ended = run.wait(90)
    assert ended[0].code == 1, ended[0].output[-2000:]
    assert "nan" in ended[0].error or "not finite" in ended[0].error, ended[0].error
    kept = final_state(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in flatten(kept.arrays()).values())
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.long
def test_whoever_wants_it_goes_on(tmp_path):
    finish(tmp_path, 2, **EXPLODES, health__nonfinite="warn", num_epochs=1.0)
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text)["train_loss"] is None and "NaN" not in text
    assert (tmp_path / "logs" / "worker-0.log").read_text().count("health.nonfinite=warn") >= 2
