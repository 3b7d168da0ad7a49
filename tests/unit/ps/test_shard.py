"""One server's arrays (`ps/values.py` too): which update rules are served, values from outside, and what does not fit.

Updates under real servers: `tests/contract/test_updates.py`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import optax
import pytest
from helpers.servers import LAYOUT

from jaxdist.optim import optimizers
from jaxdist.ps.shard import Shard, check_elementwise
from jaxdist.ps.values import both, contents


def test_only_elementwise_rules_are_served():
    for name in optimizers.OPTIMIZERS:
        check_elementwise(optimizers.build(name))
    clipped = optimizers.Optimizer(optax.chain(optax.clip_by_global_norm(1.0)))
    clipped = dataclasses.replace(clipped, rule=optax.clip_by_global_norm(1.0))
    with pytest.raises(ValueError, match="not elementwise"):
        check_elementwise(clipped)


def test_values_and_slots_come_in_parts_and_go_into_a_snapshot():
    shard = Shard(LAYOUT, 0, 1, optimizers.build("sgd", momentum=0.9))
    given = {what: np.arange(vector.size, dtype=np.float32) for what, vector in contents(shard.values).items()}
    assert len(given) == 3, "parameters, statistics and momentum"
    for what in sorted(given, key=["params", "stats"].__contains__):
        assert not shard.is_loaded
        data = given[what].view(np.uint8)
        for _ in range(2):  # sent again
            shard.load_part(what, 0, len(data), data.data)
    assert shard.is_loaded
    shard.begin(7)
    again = Shard(LAYOUT, 0, 1, optimizers.build("sgd", momentum=0.9))
    again.restore(7, contents(shard.values))
    for values in (shard.values, again.values):
        assert values.version == 7 and both(values) == given["params"].tobytes() + given["stats"].tobytes()
        for what, vector in contents(values).items():
            np.testing.assert_array_equal(vector, given[what], err_msg=what)


def test_what_does_not_fit_is_refused():
    shard = Shard(LAYOUT, 1, 2, optimizers.build("sgd"))
    part, size = np.zeros(8, np.uint8).data, shard.flat_shard.num_bytes
    with pytest.raises(ValueError, match="do not fit this server"):
        shard.load_part("params", 4, 8, part)
    with pytest.raises(ValueError, match="no slot 'nothing'"):
        shard.load_part("nothing", 0, 8, part)
    with pytest.raises(ValueError, match=r"'params' has 2 elements instead of"):
        shard.load_part("params", 0, 8, part)
    with pytest.raises(ValueError, match=f"8 bytes at 0 of 8 do not fit this server's {size}"):
        shard.stage(1, 0, 8, part)
    with pytest.raises(LookupError, match="version 3 is gone"):
        shard.recent(3)


def test_gradients_that_wait_are_bounded_and_forgotten():
    shard = Shard(LAYOUT, 0, 1, optimizers.build("sgd"))
    gradient = np.zeros(shard.flat_shard.num_bytes, np.uint8)
    shard.most_staged = 2
    for claim in (1, 2, 2):
        shard.stage(claim, 0, len(gradient), gradient.data)
    with pytest.raises(ValueError, match="2 gradients wait"):
        shard.stage(3, 0, len(gradient), gradient.data)
    shard.forget([1])
    shard.stage(1, 0, len(gradient), gradient.data)  # too late: passed over
    shard.stage(3, 0, len(gradient), gradient.data)
    assert shard.is_staged(3) and not shard.is_staged(4) and not shard.is_applied(1)
