"""Stages from costs: by times where there are some, by bytes otherwise, as the user says where he does."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import numpy as np
import pytest

from jaxdist.cost.balance import describe, plan
from jaxdist.cost.blocks import BlockCost
from jaxdist.models import Graph
from jaxdist.parallel.schedules import bubble

SIZES = ((0, 10, 100, 50), (10, 20, 100, 60), (20, 30, 100, 70), (30, 8, 700, 80))  # in, out, parameters, saved
COSTS = [BlockCost(f"b{k}", i, o, np.float32, p, s) for k, (i, o, p, s) in enumerate(SIZES)]
SECONDS = (4.0, 1.0, 1.0, 1.0)
TIMED = [dataclasses.replace(cost, forward=t, backward=2 * t) for cost, t in zip(COSTS, SECONDS, strict=True)]
MODEL = Graph(tuple((cost.name, nn.Dense(3)) for cost in COSTS), (3,))
OPTIONS = {"num_stages": 2, "num_microbatches": 4, "schedule": "1f1b", "remat": False}


def test_bytes_balance_where_nothing_was_timed_and_times_where_all_was():
    assert plan(COSTS, MODEL, balance=(), **OPTIONS).balance == (3, 1)
    assert plan(TIMED, MODEL, balance=(), **OPTIONS).balance == (1, 3)
    assert plan(TIMED, MODEL, balance=(2, 2), **OPTIONS).balance == (2, 2)


def test_what_is_to_be_expected_of_the_stages():
    found = plan(COSTS, MODEL, balance=(2, 2), **OPTIONS).predicted
    assert found["cut_bytes"] == [20] and found["param_bytes"] == [200, 800]
    assert found["kept_bytes_per_microbatch"] == [110, 150]
    assert found["bubble_of_equal_stages"] == pytest.approx(bubble(2, 4), abs=1e-4) and "bubble" not in found
    again = plan(COSTS, MODEL, balance=(2, 2), **(OPTIONS | {"remat": True})).predicted
    assert again["kept_bytes_per_microbatch"] == [0, 20]  # the inputs alone

    timed = plan(TIMED, MODEL, balance=(1, 3), **OPTIONS)
    assert timed.predicted["forward_ms"] == [4000, 3000] and timed.predicted["backward_ms"] == [8000, 6000]
    assert 0 < timed.predicted["bubble"] < 1
    lines = describe(timed).splitlines()
    assert lines[0].startswith("stage 0: block b0; 4000.0 + 8000.0 ms a microbatch; parameters 0.00 MB")
    assert lines[1].startswith("stage 1: 3 blocks, b1 to b3;") and "to the next" not in lines[1]
    assert lines[2] == f"predicted bubble {100 * timed.predicted['bubble']:.1f} %"
