"""The layers that models share: Flax's numbers where they are the same, and dropout by position.

Holds what models/context.py tells a block.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxdist import models
from jaxdist.models.layers import Classifier, Conv


class Probe(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x, context):
        return self.layer(x, context)


def test_dropout_bits_follow_the_position_and_nothing_else():
    model = models.Graph((("probe", Probe(models.Dropout(0.25))),), (1000,))
    x = np.ones((8, 1000), np.float32)

    @functools.partial(jax.jit, static_argnames="seed")
    def dropped(x, positions, seed):
        return model.apply({}, {}, {"image": x}, models.Context(train=True, positions=positions), seed=seed)[0][
            model.head
        ]

    def drop(positions, seed=0):
        return np.asarray(dropped(x[: len(positions)], np.asarray(positions, np.uint32), seed))

    whole = drop(range(100, 108))
    np.testing.assert_array_equal(whole[3:5], drop([103, 104]))
    assert not np.array_equal(whole, drop(range(100, 108), seed=1))
    kept = drop(range(8)) != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.02)
    assert abs(np.corrcoef(kept[0], kept[1])[0, 1]) < 0.1
    np.testing.assert_allclose(whole[whole != 0], 1 / 0.75, rtol=1e-6)
    evaluated = model.apply({}, {}, {"image": x}, models.Context(train=False))[0][model.head]
    np.testing.assert_array_equal(evaluated, x)


def test_a_convolution_has_flax_s_parameters_and_numbers():
    own = Conv(5, (3, 3), (2, 2), padding=1)
    flax = nn.Conv(5, (3, 3), (2, 2), padding=1, kernel_init=own.kernel_init)
    x = np.random.default_rng(0).normal(size=(2, 7, 7, 3)).astype(np.float32)

    @jax.jit
    def both(x):
        variables = [layer.init(jax.random.key(1), x) for layer in (own, flax)]
        return variables, [layer.apply(variables[0], x) for layer in (own, flax)]

    variables, outputs = both(x)
    jax.tree.map(np.testing.assert_array_equal, *variables)
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_batch_norm_trains_by_the_batch_and_evaluates_by_what_it_has_kept():
    layer, x = models.BatchNorm(momentum=0.75), 3 + np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    variables = layer.init(jax.random.key(0), x, models.Context(train=True))
    assert not variables["batch_stats"]["mean"].any()  # the dummy batch of the initialisation is not kept
    y, changed = layer.apply(variables, x, models.Context(train=True), mutable=["batch_stats"])
    np.testing.assert_allclose(np.mean(y, 0), 0, atol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.25 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["var"], 0.75 + 0.25 * x.var(0), rtol=1e-4)
    known = {"params": variables["params"], "batch_stats": {"mean": x.mean(0), "var": x.var(0)}}
    np.testing.assert_allclose(layer.apply(known, x, models.Context(train=False)), y, atol=1e-4)


def test_the_classifier_takes_the_mean_of_each_channel():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    layer, context = Classifier(5), models.Context(train=False)
    kernel, bias = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32), np.arange(5, dtype=np.float32)
    found = layer.apply({"params": {"dense": {"kernel": kernel, "bias": bias}}}, x, context)
    np.testing.assert_allclose(found, x.mean((1, 2)) @ kernel + bias, atol=1e-5)
