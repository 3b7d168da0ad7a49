"""Strategies by name: each is registered once, and refuses what it cannot do before anything is built."""

from __future__ import annotations

import pytest
from helpers.own import every_second
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError
from jaxdist.knobs import Knob


def test_spelling_and_strategy_that_cannot_be():
    settings, task = default_config().strategy, make_task("chain")
    settings.spmd, settings.sync_batch_norm = "jit", False
    with pytest.raises(UsageError, match="shard_map"):
        strategies.check(settings, task, global_batch_size=8, num_processes=1, num_devices=1)
    settings.name = "single"
    with pytest.raises(UsageError, match="use 'allreduce'"):
        strategies.check(settings, task, global_batch_size=8, num_processes=2, num_devices=2)


def test_a_strategy_is_registered_once():
    strategies.register(every_second.SPEC)
    try:
        strategies.register(every_second.SPEC)  # the same again is harmless
        with pytest.raises(ValueError, match="already"):
            strategies.register(
                strategies.StrategySpec(name="every_second", check=every_second.check, build=every_second.build)
            )
        with pytest.raises(ValueError, match=r"strategy\.spmd"):
            taken = Knob("strategy.spmd", "", "another's")
            strategies.register(
                strategies.StrategySpec(name="x", knobs=(taken,), check=every_second.check, build=every_second.build)
            )
    finally:
        del strategies.SPECS["every_second"]
