"""Clipping, averages, schedules and a rule of optax over real processes: the numbers of one process. Over several
servers the norm is that of the whole gradient: what holds `ps/squared_norms.py` beside `contract/test_updates.py`.
"""

from __future__ import annotations

import pytest
from helpers.outcomes import final_state
from helpers.processes import finish, long, rows
from helpers.reference import assert_same

UPDATES = 10
RECIPE = {
    "optim__name": "adamw",
    "optim__weight_decay": 0.01,
    "optim__learning_rate": 0.02,
    "optim__schedule": "warmup_cosine",
    "optim__warmup_epochs": 0.2,
    "optim__clip_global_norm": 0.46,
    "optim__ema_decay": 0.7,
    "num_epochs": 1.0,
    "max_updates": UPDATES,
    "eval_every_epochs": 0.5,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run directory of the single-device run, in halves as two replicas have them."""
    folder = tmp_path_factory.mktemp("alone")
    finish(folder, 1, strategy__name="single", strategy__accumulate=2, **RECIPE)
    return folder


PIPELINE = {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"}


@pytest.mark.parametrize(
    ("servers", "settings"),
    [(3, {"strategy__max_staleness": 0}), (0, PIPELINE), long(0, {})],
    ids=["servers", "pipeline", "allreduce"],
)
def test_two_processes_are_one(x64, alone, tmp_path, servers, settings):
    finish(tmp_path, 2, servers=servers, **RECIPE, **settings)
    assert_same(final_state(tmp_path), final_state(alone), 1e-9)
    one, other = rows(alone, "eval")[UPDATES], rows(tmp_path, "eval")[UPDATES]
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-9)  # of the average


def test_an_asynchronous_worker_clips_before_its_gradient_is_cut(x64, tmp_path):
    settings = RECIPE | {"global_batch_size": 4}
    finish(tmp_path / "alone", 1, strategy__name="single", **settings)
    finish(tmp_path / "served", 1, servers=2, **settings)
    assert_same(final_state(tmp_path / "served"), final_state(tmp_path / "alone"), 1e-9)


@pytest.mark.long
def test_the_average_follows_examples_whatever_an_update_is(x64, tmp_path):
    """Two workers push by turns: the weight that an average has come to tells how often, and by how much, it moved."""
    settings = RECIPE | {"optim__clip_global_norm": 0.0, "max_updates": 0}
    finish(tmp_path, 2, servers=1, **settings)
    state = final_state(tmp_path)
    assert (state.updates, state.examples_seen) == (40, 240)
    weight = float(state.in_memory().opt_state["parameter_ema_weight"])
    assert weight == pytest.approx(1 - 0.7**20, rel=1e-6)
