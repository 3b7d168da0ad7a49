"""State divided by rules: what lies where, and what it costs in communication."""

from __future__ import annotations

import jax
import numpy as np
import optax
from helpers.in_process import SHARDED, run_strategy, strategy_on
from helpers.reference import assert_same, make_batches, make_task
from helpers.three_layers import three_layers

from jaxdist.state import flatten


def test_rules_of_resnet_cost_two_all_reduces_a_block():
    task = make_task("resnet", np.float32)
    strategy = strategy_on(2, task, **SHARDED | {"mesh": "model:2"})
    run_strategy(task, make_batches(1, 16, np.float32), devices=2, strategy=strategy)
    found = strategy.collectives()
    assert found.keys() == {"all-reduce"} and found["all-reduce"]["count"] <= 2 * 3 + 1, found


def test_divided_channels_are_divided():
    task = make_task("resnet", np.float32)
    strategy = strategy_on(2, task, **SHARDED | {"mesh": "model:2"})
    state = strategy.import_state(task.init())
    kernel = state.arrays["params"]["stage1_block1"]["conv1"]["kernel"]
    slot = state.arrays["opt_state"]["trace"]["stage1_block1"]["conv1"]["kernel"]
    for array in (kernel, slot):
        assert [s.data.shape for s in array.addressable_shards] == [(3, 3, 4, 2)] * 2


def test_slots_of_another_shape_are_whole_everywhere():
    rule = optax.chain(optax.trace(0.9), optax.scale_by_factored_rms(min_dim_size_to_factor=2))
    task = three_layers(rule, np.float32)
    settings = {"mesh": "data:1,model:2", "rules": "stem/dense/kernel = -,model; middle/dense/kernel = model,-"}
    strategy = strategy_on(2, task, 16, **SHARDED | settings)
    state = strategy.import_state(task.init())
    assert_same(strategy.export_state(state), task.init(), 0.0)
    slots, params = state.arrays["opt_state"], flatten(state.arrays["params"])
    split = [path for path, leaf in params.items() if not leaf.is_fully_replicated]
    assert split and all(flatten(slots["0.trace"])[path].sharding == params[path].sharding for path in split)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(slots["1.v_row"]))
