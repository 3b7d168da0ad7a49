"""What a strategy tells of itself: what it is silent about is what most of them are."""

from __future__ import annotations

import pytest

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.strategies.spec import BuildContext, Resources, StrategySpec


def test_a_strategy_is_synchronous_and_shares_its_processes_fate_unless_it_says_otherwise():
    spec = StrategySpec(name="mine", check="a:b", build="a:b")
    assert [spec.needs_collectives({}, n) for n in (1, 2)] == [False, True]
    assert spec.fate_sharing and not spec.asynchronous({}) and spec.observe is None and spec.knobs == ()


def test_what_the_built_in_ones_say():
    settings = default_config().strategy.to_dict()
    said = {
        name: (spec.needs_collectives(settings, 2), spec.fate_sharing, spec.asynchronous(settings), bool(spec.observe))
        for name, spec in strategies.SPECS.items()
    }
    assert said == {
        "single": (False, True, False, False),
        "allreduce": (True, True, False, False),
        "model_parallel": (True, True, False, False),
        "pipeline": (False, True, False, False),
        "parameter_server": (False, False, True, True),
    }
    servers = strategies.spec_of("parameter_server")
    assert not servers.asynchronous(settings | {"max_staleness": 0})
    assert servers.asynchronous(settings | {"max_staleness": 0, "staleness_policy": "dynamic"})


def test_contexts_are_named_and_the_chief_is_process_0():
    assert BuildContext(global_batch_size=12).is_chief and not BuildContext(global_batch_size=12, process_id=1).is_chief
    assert Resources(global_batch_size=12, num_processes=2, num_devices=4).num_servers == 0
    with pytest.raises(TypeError):
        Resources(12, 2, 4)
