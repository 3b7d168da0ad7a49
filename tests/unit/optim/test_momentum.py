"""The momentum in the state of any optimizer is found and scaled."""

from __future__ import annotations

import numpy as np
from helpers.three_layers import STATEFUL

from jaxdist.optim import momentum
from jaxdist.optim.optimizers import Optimizer


def test_momentum_is_found_in_any_chain():
    state = {"0.trace": {"a": np.ones(2, np.float32)}, "1.count": np.int32(3), "x.traces": np.ones(1)}
    after = Optimizer(STATEFUL).scale_momentum(state, 0.5)
    assert after["0.trace"]["a"].tolist() == [0.5, 0.5] and after["0.trace"]["a"].dtype == np.float32
    assert after["1.count"] is state["1.count"] and after["x.traces"] is state["x.traces"]
    assert momentum.scaled({"count": np.int32(3)}, 0.5) == {"count": np.int32(3)}
