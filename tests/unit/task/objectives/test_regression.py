"""Losses and metrics of numbers; the spread of redshifts from a histogram, to within its bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from jaxdist.task.objectives import Regression
from jaxdist.task.objectives.regression import sigma_nmad

NAMES = (
    "mean_absolute_error", "root_mean_squared_error", "bias", "redshift_bias", "sigma_nmad", "outliers_0.01",
)  # fmt: skip


def predictions(n=500, seed=1):
    rng = np.random.default_rng(seed)
    z = rng.uniform(0, 0.6, n)
    return (z + 0.01 * rng.standard_t(2, n) * (1 + z))[:, None], z


def exact_sigma(outputs, z):
    d = (outputs[:, 0] - z) / (1 + z)
    return 1.4826 * np.median(np.abs(d - np.median(d)))


def test_metrics_are_those_of_scikit_learn_and_of_the_definitions(x64):
    objective = Regression("huber", NAMES, delta=0.05)
    outputs, z = predictions()
    halves = [objective.score(outputs[k::2], {"target": z[k::2]}, training=False)[1] for k in (0, 1)]
    found = objective.values({name: np.asarray(halves[0][name]) + np.asarray(halves[1][name]) for name in halves[0]})
    d = (outputs[:, 0] - z) / (1 + z)
    assert found["mean_absolute_error"] == pytest.approx(reference.mean_absolute_error(z, outputs), rel=1e-12)
    assert found["root_mean_squared_error"] == pytest.approx(reference.root_mean_squared_error(z, outputs), rel=1e-12)
    assert found["bias"] == pytest.approx(np.mean(outputs[:, 0] - z), rel=1e-9)
    assert found["redshift_bias"] == pytest.approx(np.mean(d), rel=1e-9)
    assert found["outliers_0.01"] == pytest.approx(np.mean(np.abs(d) > 0.01), rel=1e-12)
    width = 2 * objective.span / objective.bins
    assert abs(found["sigma_nmad"] - exact_sigma(outputs, z)) <= 1.5 * width
    assert objective.training_sums == (
        "loss_sum", "mean_absolute_error_sum", "root_mean_squared_error_sum", "bias_sum", "count",
    )  # fmt: skip


@given(
    st.lists(st.floats(-0.9, 0.9, allow_subnormal=False), min_size=1, max_size=60),
    st.sampled_from([10, 101, 4000]),
)
@settings(deadline=None)
def test_the_spread_is_exact_to_its_bins(deviations, bins):
    d = np.array(deviations)
    place = np.floor((d + 1) * bins / 2).astype(int) + 1
    counts = np.bincount(place, minlength=bins + 2)
    exact = 1.4826 * np.median(np.abs(d - np.median(d)))
    assert abs(sigma_nmad(counts, 1.0) - exact) <= 1.5 * (2 / bins) * 1.4826 + 1e-12


def test_what_lies_beyond_the_histogram_is_not_passed_over():
    objective = Regression(names=("sigma_nmad",))
    outputs = np.array([[0.0], [9.0], [-9.0], [np.nan], [np.inf]])
    _, sums = objective.score(outputs, {"target": np.zeros(5)}, training=False)
    counts = np.asarray(sums["deviations"])
    assert counts.sum() == 5 and counts[0] == 1 and counts[-1] == 3
    assert math.isnan(objective.values({name: np.asarray(value) for name, value in sums.items()})["sigma_nmad"])
    assert math.isnan(sigma_nmad(np.zeros(12), 1.0))


def test_losses_of_several_outputs_are_their_mean():
    outputs, target = np.array([[1.0, 4.0], [0.0, 0.5]]), np.array([[0.0, 0.0], [0.0, 0.0]])
    error = outputs - target
    found = {loss: Regression(loss, delta=1.0).losses(outputs, target) for loss in ("squared", "absolute", "huber")}
    np.testing.assert_allclose(found["squared"], (error**2).mean(1), rtol=1e-6)
    np.testing.assert_allclose(found["absolute"], np.abs(error).mean(1), rtol=1e-6)
    huber = np.where(np.abs(error) <= 1, error**2 / 2, np.abs(error) - 0.5)
    np.testing.assert_allclose(found["huber"], huber.mean(1), rtol=1e-6)


@pytest.mark.parametrize(("values", "words"), [({"delta": 0.0}, "delta=0.0"), ({"bins": 1}, "bins=1 must be 2")])
def test_what_cannot_be(values, words):
    with pytest.raises(ValueError, match=words):
        Regression(**values)
