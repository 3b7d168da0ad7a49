"""Parameter servers from a configuration: what cannot be is refused, with the arithmetic and the remedy."""

from __future__ import annotations

import pytest
from helpers.in_process import only
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError

SETTINGS = default_config().strategy.to_dict() | {"name": "parameter_server"}


@pytest.mark.parametrize(
    ("changes", "resources", "words"),
    [
        ({}, (12, 2, 0), r"needs --server_addresses=HOST:PORT,\.\.\. .*tools/launch.py --num_servers=1"),
        ({}, (12, 5, 1), r"not divisible by the 5 workers \(12 = 5 x 2 \+ 2\); nearest: 10 or 15"),
        ({}, (16, 4, 1), r"not divisible by the 12 devices of all workers \(16 = 12 x 1 \+ 4\)"),
        ({"accumulate": 4}, (30, 2, 1), r"30 is not divisible by the 24 parts \(strategy.accumulate=4 on 6 device"),
    ],
)
def test_what_cannot_be_is_refused(changes, resources, words):
    batch, workers, servers = resources
    sizes = {"global_batch_size": batch, "num_processes": workers, "num_devices": 3 * workers, "num_servers": servers}
    with only(3), pytest.raises(UsageError, match=words):
        strategies.check(SETTINGS | changes, make_task("dense"), **sizes)


@pytest.mark.parametrize(("low", "high", "fits"), [(1, 6, True), (3, 3, True), (0, 3, False), (5, 3, False)])
def test_a_range_of_bounds_rises_from_1(low, high, fits):
    spec = strategies.spec_of("parameter_server")
    values = {"strategy.staleness_policy": "dynamic", "strategy.staleness_range": (low, high)}
    if fits:
        spec.validate(values)
    else:
        with pytest.raises(UsageError, match=r"must be \(low, high\) with 1 <= low <= high"):
            spec.validate(values)
    spec.validate(values | {"strategy.staleness_policy": "fixed"})
