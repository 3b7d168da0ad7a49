"""One device of one process, whatever else there is. That it trains right: `transparency/test_data_parallel.py`."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.in_process import strategy_on
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError
from jaxdist.state import Position, TrainState, flatten


def test_it_is_for_one_process_and_accumulates_in_equal_parts():
    settings = default_config().strategy
    settings.name = "single"
    with pytest.raises(UsageError, match="for one process, but there are 2: use 'allreduce'"):
        strategies.check(settings, make_task("dense"), global_batch_size=8, num_processes=2, num_devices=2)
    settings.accumulate = 3
    with pytest.raises(UsageError, match=r"8 is not divisible by the 3 parts \(strategy.accumulate=3 on 1 device"):
        strategies.check(settings, make_task("dense"), global_batch_size=8, num_processes=1, num_devices=8)
    strategies.check(settings, make_task("dense"), global_batch_size=9, num_processes=1, num_devices=8)


def test_a_state_lies_on_the_first_device_and_comes_back_as_it_was():
    strategy = strategy_on(4, make_task("dense"), name="single", accumulate=2)
    arrays = {"params": {"a": np.arange(3.0, dtype=np.float32)}, "model_state": {}, "opt_state": {"count": np.int32(4)}}
    canonical = TrainState.of(arrays, 7, Position(84, ((3, 5),)))
    state = strategy.import_state(canonical)
    assert {leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(state.arrays)} == {True}
    arrays["params"]["a"] += 1  # a step donates the placed arrays, which are copies
    exported = strategy.export_state(state)
    assert (exported.updates, exported.position) == (7, canonical.position)
    assert flatten(exported.arrays())["params/a"].tolist() == [0.0, 1.0, 2.0]
    assert strategy.task.microbatches == 2 and strategy.is_chief
