"""Synchronous data parallelism from a configuration: each spelling is built, what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.in_process import only, strategy_on
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError
from jaxdist.strategies.data_parallel.allreduce import AllReduce
from jaxdist.strategies.data_parallel.pmap import AllReducePmap
from jaxdist.strategies.sharded.gspmd import ModelParallel


@pytest.mark.parametrize(
    ("changes", "resources", "words"),
    [
        ({"spmd": "jit", "sync_batch_norm": False}, (8, 1, 1), "use strategy.spmd='shard_map' for statistics per rep"),
        ({"spmd": "jit", "accumulate": 4}, (32, 1, 4), "accumulate=4 cuts .*: use strategy.spmd='shard_map'"),
        ({}, (13, 2, 2), r"not divisible by the 2 devices of 2 process\(es\) \(13 = 2 x 6 \+ 1\); nearest: 12 or 14"),
        ({"accumulate": 4}, (24, 2, 4), r"24 is not divisible by the 16 parts \(strategy.accumulate=4 on 4 device"),
        ({"memory_limit": 1e-6}, (16, 1, 2), "One process needs about .*strategy.name='pipeline' cuts the model"),
    ],
)
def test_what_cannot_be_is_refused(changes, resources, words):
    settings = default_config().strategy.to_dict() | changes
    batch, processes, devices = resources
    with only(1), pytest.raises(UsageError, match=words):
        strategies.check(
            settings,
            make_task("chain", np.float32),
            global_batch_size=batch,
            num_processes=processes,
            num_devices=devices,
        )


@pytest.mark.parametrize(("spmd", "kind"), [("shard_map", AllReduce), ("pmap", AllReducePmap), ("jit", ModelParallel)])
def test_each_spelling_is_what_it_says(spmd, kind):
    strategy = strategy_on(4, make_task("chain"), 16, spmd=spmd)
    assert type(strategy) is kind
    assert (strategy.examples_per_update, strategy.own_part, strategy.eval_multiple) == (16, (0, 1), 4)
    assert strategy.task.microbatches == 1 and strategy.report.summary()["collectives_per_step"] == {}
