"""Strategies by name: each is registered once, and refuses what it cannot do before anything is built."""

from __future__ import annotations

import pytest
from helpers.own import every_second

from jaxdist import strategies
from jaxdist.errors import UsageError
from jaxdist.knobs import Knob
from jaxdist.strategies import registry
from jaxdist.strategies.knobs import ACCUMULATE


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"name='all_reduce' is not known; nearest: 'allreduce'; one of single, "):
        strategies.spec_of("all_reduce")


def test_functions_are_called_given_themselves_or_by_their_names():
    called = []

    def note(kind):
        return lambda *given: called.append((kind, *given)) or kind

    written = "helpers.own.every_second:build"
    spec = strategies.StrategySpec(name="mine", check=note("check"), build=note("build"), observe=note("observe"))
    settings = {"name": "mine"}
    strategies.register(spec)
    try:
        resources = {"global_batch_size": 12, "num_processes": 2, "num_devices": 4, "num_servers": 1}
        strategies.check(settings, "task", **resources)
        assert strategies.build(settings, "task", global_batch_size=12, process_id=1) == "build"
        assert strategies.observe(settings, "task", global_batch_size=12, server_addresses=("a:1",)) == "observe"
    finally:
        del strategies.SPECS["mine"]
    assert called == [
        ("check", settings, "task", strategies.Resources(**resources)),
        ("build", settings, "task", strategies.BuildContext(global_batch_size=12, process_id=1)),
        ("observe", "task", strategies.BuildContext(global_batch_size=12, server_addresses=("a:1",))),
    ]
    assert registry._function(written) is every_second.build
    with pytest.raises(UsageError, match=r"name=parameter_server; strategy\.name='single' evaluates by itself"):
        strategies.observe({"name": "single"}, "task")


def test_a_knob_counts_for_those_that_have_it():
    assert registry.where_it_counts(ACCUMULATE) == ["single", "allreduce", "parameter_server"]
    keys = [knob.key for knob in registry.knobs()]
    assert len(keys) == len(set(keys)) and "strategy.memory_limit" in keys


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
        with pytest.raises(ValueError, match=r"'optim\.every', which is not of config\.strategy"):
            outside = Knob("optim.every", 2, "not a strategy's")
            strategies.register(
                strategies.StrategySpec(name="x", knobs=(outside,), check=every_second.check, build=every_second.build)
            )
    finally:
        del strategies.SPECS["every_second"]
    assert "x" not in strategies.SPECS
