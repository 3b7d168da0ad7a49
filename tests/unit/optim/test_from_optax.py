"""Optimizers of optax by their names: their steps without learning rate and sign; those that have no such are refused.

Holds `optim/slots.py` too, with `test_optimizers.py` beside this.
"""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from jaxdist.optim import optimizers
from jaxdist.optim.from_optax import optimizers_of_optax

PARAMS = {"a": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}}
RATE = np.float32(0.01)


def steps(update, state, count=3):
    params, rng = PARAMS, np.random.default_rng(0)
    for _ in range(count):
        grads = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), PARAMS)
        params, state = update(grads, state, params)
    return params


@pytest.mark.parametrize(
    ("name", "options"),
    [("adamw", {"weight_decay": 0.1}), ("nadam", {}), ("lion", {"b1": 0.8, "weight_decay": 0.0}), ("lamb", {}),
     ("rmsprop", {"momentum": 0.9}), ("adafactor", {"min_dim_size_to_factor": 2}), ("nadamw", {"weight_decay": 0.1})],
)  # fmt: skip
def test_steps_are_those_of_optax(name, options):
    ours = optimizers.build(name, decay_mask="all", options=tuple(sorted(options.items())))
    theirs = getattr(optax, name)(float(RATE), **options)

    def plain(grads, state, params):
        step, state = theirs.update(grads, state, params)
        return optax.apply_updates(params, step), state

    found = steps(lambda g, s, p: ours.update(g, s, p, RATE), ours.init(PARAMS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), found, steps(plain, theirs.init(PARAMS)))


def test_weight_decay_is_theirs_where_they_have_one_and_follows_the_mask():
    decayed = optimizers.build("adamw", weight_decay=0.5)
    assert decayed.weight_decay == 0  # not twice
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    params, _ = decayed.update(zeros, decayed.init(PARAMS), PARAMS, RATE)
    np.testing.assert_allclose(params["a"]["kernel"], 1 - 0.01 * 0.5)
    np.testing.assert_array_equal(params["a"]["bias"], 1.0)
    by_path = optimizers.build("sgd", momentum=0.0, weight_decay=0.5, decay_mask="unit.optim.test_from_optax:is_bias")
    params, _ = by_path.update(zeros, by_path.init(PARAMS), PARAMS, RATE)
    np.testing.assert_array_equal(params["a"]["kernel"], 1.0)
    np.testing.assert_allclose(params["a"]["bias"], 1 - 0.01 * 0.5)
    assert optimizers.build("rmsprop", weight_decay=0.5).weight_decay == 0.5  # an L2 penalty: it has none


def is_bias(path: str) -> bool:
    return path.endswith("/bias")


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("adamv", {}, "'adamv' is not known; nearest: 'adam"),
        ("lbfgs", {}, "needs more than gradients"),
        ("fromage", {}, "otherwise than as a factor"),
        ("adamw", {"options": (("beta", 1),)}, r"optim\.options does not fit optim\.name='adamw': .*beta"),
        ("novograd", {"weight_decay": 0.1, "decay_mask": "kernel"}, "is of all parameters. Set optim.decay_mask='all'"),
        ("sgd", {"decay_mask": "kernels"}, "decay_mask='kernels' is not known; one of kernel, all"),
    ],
)
def test_what_cannot_be(name, values, words):
    with pytest.raises(ValueError, match=words):
        optimizers.build(name, **values)


def test_there_are_many_and_ours_stay_ours():
    there = optimizers_of_optax(optimizers.OPTIMIZERS)
    assert {"adamw", "nadam", "lion", "lamb", "rmsprop"} <= there.keys() and not there.keys() & set(
        optimizers.OPTIMIZERS
    )


def test_an_average_of_parameters_is_free_of_the_zeros_that_it_began_with():
    rule = optimizers.build("sgd", momentum=0.0, ema_decay=0.5)
    grads, state, params, seen = jax.tree.map(np.ones_like, PARAMS), rule.init(PARAMS), PARAMS, []
    np.testing.assert_array_equal(rule.evaluated(state, params)["a"]["bias"], 1.0)  # before the first update
    for _ in range(3):
        params, state = rule.update(grads, state, params, np.float32(1.0))
        seen.append(float(params["a"]["bias"][0]))
    weights = np.array([0.25, 0.5, 1.0])
    np.testing.assert_allclose(rule.evaluated(state, params)["a"]["bias"], weights @ seen / weights.sum(), rtol=1e-6)
    halves = rule.init(PARAMS)
    for _ in range(2):  # twice half a global batch
        _, halves = rule.update(grads, halves, PARAMS, np.float32(0.0), np.float32(0.5))
    np.testing.assert_allclose(halves["parameter_ema_weight"], 0.5, rtol=1e-6)
