"""Any optax transformation is an optimizer over the canonical state; functions are found by their names."""

from __future__ import annotations

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.three_layers import MASKED, kernels

from jaxdist import config as config_lib
from jaxdist.config import default_config
from jaxdist.optim import optimizers
from jaxdist.optim.optimizers import Optimizer
from jaxdist.state import flatten, unflatten

PARAMS = {
    "stem": {"conv": {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}},
    "head": {
        "kernel": np.ones((128, 130), np.float32),
        "trace": np.ones(3, np.float32),
    },  # a parameter may be called as a slot is
}


def by_kind(tree):
    return jax.tree.map(lambda is_kernel: "a" if is_kernel else "b", kernels(tree))


PARTITIONED = optax.partition({"a": optax.trace(0.9), "b": optax.scale_by_adam()}, by_kind)
CHAIN = optax.chain(optax.clip(1.0), optax.trace(0.9), optax.scale_by_adam(), MASKED)


@pytest.mark.parametrize(
    ("rule", "slots"),
    [
        (optax.identity(), set()),
        (optax.trace(0.9), {"trace"}),
        (optax.scale_by_adam(), {"count", "mu", "nu"}),
        (optax.scale_by_adadelta(), {"e_g", "e_x"}),
        (CHAIN, {"1.trace", "2.count", "2.mu", "2.nu", "3.inner_state.trace"}),
        (optax.scale_by_factored_rms(), {"count", "v", "v_row", "v_col"}),
        (
            PARTITIONED,
            {"inner_states.a.inner_state.trace"} | {f"inner_states.b.inner_state.{s}" for s in ("count", "mu", "nu")},
        ),
        (optax.add_noise(0.1, 0.5, 0), {"count", "rng_key"}),
        (optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), lambda g, s, p: (g, s)), {"state"}),
    ],
)  # fmt: skip
def test_slots_of_any_rule(rule, slots):
    """The update is optax's own on optax's own state, through the slots and back."""
    optimizer = Optimizer(rule)
    state = optimizer.init(PARAMS)
    assert set(state) == slots and all("/" not in slot for slot in state)
    like = flatten(optimizer.shapes(PARAMS))
    found = flatten(state)
    assert {p: (x.shape, x.dtype) for p, x in found.items()} == {p: (x.shape, x.dtype) for p, x in like.items()}
    params = flatten(PARAMS)
    for path, leaf in found.items():  # leaf by leaf, the same
        slot, _, name = path.partition("/")
        one = optimizer.init_leaf(slot, *((params[name].shape, np.float32, name) if name else ((), np.float32)))
        np.testing.assert_array_equal(one, leaf, err_msg=path)
    optimizer.check(PARAMS)
    grads = jax.tree.map(lambda leaf: np.linspace(-2, 3, leaf.size, dtype=np.float32).reshape(leaf.shape), PARAMS)
    expected, mine, theirs = PARAMS, PARAMS, rule.init(PARAMS)
    for _ in range(2):
        mine, state = optimizer.update(grads, state, mine, np.float32(0.1))
        direction, theirs = rule.update(grads, theirs, expected)
        expected = jax.tree.map(lambda p, d: p - np.float32(0.1) * d, expected, direction)
    jax.tree.map(np.testing.assert_array_equal, mine, expected)
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    of_optax = [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in jax.tree.leaves(theirs)]
    assert sorted(map(repr, map(np.asarray, flatten(state).values()))) == sorted(map(repr, map(np.asarray, of_optax)))


def test_slots_that_lack_parameters_or_have_other_shapes():
    state = Optimizer(CHAIN).init(PARAMS)
    assert set(flatten(state["3.inner_state.trace"])) == {"stem/conv/kernel", "head/kernel"}
    factored = Optimizer(optax.scale_by_factored_rms()).init(PARAMS)
    assert factored["v_row"]["head"]["kernel"].shape == (128,) and factored["v_row"]["head"]["trace"].shape == (1,)


def test_a_state_without_parameters_keeps_its_slots():
    _, state = Optimizer(CHAIN).update({}, {"1.trace": {}, "2.mu": {}} | Optimizer(CHAIN).init({}), {}, np.float32(1))
    assert state["1.trace"] == {} and state["2.count"] == 1


def test_trees_without_what_is_empty():
    assert unflatten(flatten({"a": {}, "b": {"c": 1}})) == {"b": {"c": 1}}


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine_of_test_optimizers")
    module.rule = lambda momentum: optax.trace(momentum)
    module.decayed = lambda weight_decay: optax.add_decayed_weights(weight_decay)
    module.wrong = lambda: 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
    optimizers.build.cache_clear()
    yield module.__name__
    optimizers.build.cache_clear()


def test_functions_get_what_they_ask_for(mine):
    built = optimizers.build(f"{mine}:rule", momentum=0.5, weight_decay=0.1)
    assert built.weight_decay == 0.1 and set(built.init(PARAMS)) == {"trace"} and built.name == f"{mine}:rule"
    assert optimizers.build(f"{mine}:decayed", weight_decay=0.1).weight_decay == 0  # it does it itself
    assert optimizers.build("sgd", momentum=0.0).init(PARAMS) == {}
    with pytest.raises(ValueError, match=r"returned a int, not an optax\.GradientTransformation"):
        optimizers.build(f"{mine}:wrong")
    config = default_config()
    config.optim.name = f"{mine}:rule"
    config_lib.validate(config)
