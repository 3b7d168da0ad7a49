"""What a worker of the parameter servers is by its settings, and where its examples come from.

That it trains right is held by `processes/test_parameter_server.py`, its faults by `processes/test_server_faults.py`.
"""

from __future__ import annotations

import collections
import types

import pytest
from helpers.in_process import only
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.ps import Progress
from jaxdist.strategies.parameter_server.worker import ClaimedPositions, ParameterServer
from jaxdist.task import Classification

SETTINGS = default_config().strategy.to_dict() | {"name": "parameter_server"}


def build(settings, workers: int) -> ParameterServer:
    """Of worker 1; it has no servers and asks for none."""
    with only(1):
        return strategies.build(
            SETTINGS | settings,
            make_task("dense"),
            global_batch_size=12,
            process_id=1,
            num_processes=workers,
            server_addresses=("127.0.0.1:1",),
            timeouts={"timeout_seconds": 1.0, "connect_timeout_seconds": 1.0},
        )


@pytest.mark.parametrize(
    ("settings", "workers", "examples", "scale", "bound"),
    [
        ({"max_staleness": -1}, 3, 4, 1 / 3, -1),
        ({"max_staleness": 2}, 3, 4, 1 / 3, 2),
        ({"max_staleness": 2, "scale_learning_rate": False}, 3, 4, 1.0, 2),
        ({"max_staleness": 0}, 3, 12, 1.0, 0),  # an update is of all workers' gradients
        ({"max_staleness": 0, "staleness_policy": "dynamic", "staleness_range": (1, 6)}, 2, 6, 1 / 2, 6),
        ({"max_staleness": -1}, 1, 12, 1.0, -1),
    ],
)
def test_an_update_is_of_one_push_or_of_a_round(settings, workers, examples, scale, bound):
    worker = build(settings, workers)
    try:
        assert (worker.examples_per_update, worker.learning_rate_scale) == (examples, pytest.approx(scale))
        assert worker.report.summary()["max_staleness"] == bound
        assert not worker.is_chief and not worker.collective
    finally:
        worker.close(run_goes_on=True)


def test_examples_are_those_of_claims_which_steps_take_in_the_same_order():
    given = [types.SimpleNamespace(ranges=((3, 5), (9, 11))), types.SimpleNamespace(ranges=((11, 15),))]
    left, stopped, claims = list(given), [], collections.deque()
    client = types.SimpleNamespace(
        claim=lambda: left.pop(0) if left else None, stop_claiming=lambda: stopped.append(True)
    )
    positions = ClaimedPositions(client, claims)
    assert [list(taken) for taken in positions] == [[3, 4, 9, 10], [11, 12, 13, 14]]
    assert list(claims) == given and not stopped
    positions.close()
    assert stopped


def test_metrics_are_of_what_all_workers_applied_in_between():
    before = Progress(version=3, examples_seen=36, sums=(9.0, 4.0, 36.0))
    after = Progress(version=5, examples_seen=60, sums=(11.5, 10.0, 60.0))
    worker = types.SimpleNamespace(task=types.SimpleNamespace(objective=Classification()))
    assert ParameterServer._since(worker, before, after) == {"loss_sum": 2.5, "correct": 6.0, "count": 24.0}
    back = {"loss_sum": 0.0, "correct": 0.0, "count": 0.0}
    assert ParameterServer._since(worker, after, before) == back  # the servers have gone back
