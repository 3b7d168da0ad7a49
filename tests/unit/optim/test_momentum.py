"""The momentum in any optimizer's state is found and scaled, and handed over where an asynchronous phase begins."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from helpers.reference import make_task
from helpers.three_layers import STATEFUL

from jaxdist.optim import momentum
from jaxdist.optim.optimizers import Optimizer


def test_momentum_is_found_in_any_chain():
    state = {"0.trace": {"a": np.ones(2, np.float32)}, "1.count": np.int32(3), "x.traces": np.ones(1)}
    after = Optimizer(STATEFUL).scale_momentum(state, 0.5)
    assert after["0.trace"]["a"].tolist() == [0.5, 0.5] and after["0.trace"]["a"].dtype == np.float32
    assert after["1.count"] is state["1.count"] and after["x.traces"] is state["x.traces"]
    assert momentum.scaled({"count": np.int32(3)}, 0.5) == {"count": np.int32(3)}


@pytest.mark.parametrize(("how", "factor"), [("keep", 1.0), ("ramp", 1.0), ("zero", 0.0), ("scale", 0.25)])
def test_momentum_at_the_boundary(how, factor):
    task = make_task("chain", np.float64)
    state = task.init()
    trace = jax.tree.map(lambda leaf: np.ones(leaf.shape), state.params)
    after = momentum.handed_over(dataclasses.replace(state, opt_state={"trace": trace}), how, 4)
    leaves = jax.tree.leaves(after.opt_state["trace"])
    assert leaves and all((leaf == factor).all() and leaf.dtype == np.float64 for leaf in leaves)
    assert after.params is state.params


def test_ramp_drops_less_and_less_of_the_momentum():
    assert [momentum.cut((1000, 500), seen) for seen in (900, 1000, 1250, 1500, 9000)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert momentum.cut(None, 1000) == 0.0
