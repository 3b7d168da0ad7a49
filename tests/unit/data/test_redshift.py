"""Simulated spectra: lines are where 1 + z puts them, templates are held out, the noise is what its input says."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdist import data
from jaxdist.data import redshift
from jaxdist.errors import UsageError

OPTIONS = {"templates": "analytic", "num_train": 40, "num_eval": 20}


def spectra(z: float, strength: float = 0.1, snr: float = 1e6):
    found = redshift.Templates.analytic()

    class Fixed(np.random.Generator):
        def uniform(self, low, high, size=None):
            return np.full(size, z) if (low, high) == (0, 0.6) else np.full(size, low)

    ranges = {"highest_z": 0.6, "snr": (snr, snr), "strength": (strength, strength), "concentration": 0.5}
    return redshift.simulate(found, np.arange(4), 3, Fixed(np.random.PCG64(0)), **ranges)


@pytest.mark.parametrize("z", [0.0, 0.2, 0.37])
def test_lines_are_where_the_redshift_puts_them(z):
    spectrum, _, found = spectra(z, strength=1.0)
    edges = np.geomspace(redshift.LOWEST, redshift.HIGHEST, redshift.BINS + 1)
    centres = np.sqrt(edges[:-1] * edges[1:])
    assert (found == z).all()
    for line in (4861, 5007, 6563):
        near = np.abs(centres - line * (1 + z)) < 25
        peak = centres[near][spectrum[0, near, 0].argmax()]
        assert abs(peak / (1 + z) - line) < 4, line
    np.testing.assert_allclose(np.median(spectrum, axis=1), 1.0, rtol=1e-3)


def test_the_noise_is_what_its_input_says():
    rng = np.random.default_rng(0)
    ranges = {"highest_z": 0.6, "snr": (5.0, 5.0), "strength": (0.01, 0.01), "concentration": 0.5}
    noisy, sigma, z = redshift.simulate(redshift.Templates.analytic(), np.arange(4), 30, rng, **ranges)
    assert noisy.shape == sigma.shape == (30, redshift.BINS, 1) and 0 <= z.min() < z.max() <= 0.6
    assert np.median(sigma) == pytest.approx(1 / 5, rel=0.02)
    smooth = (noisy[:, 2:] - 2 * noisy[:, 1:-1] + noisy[:, :-2]) / np.sqrt(6)  # of the second difference noise is left
    assert np.median(np.abs(smooth / sigma[:, 1:-1])) * 1.4826 == pytest.approx(1.0, rel=0.05)


def test_a_data_set_of_numbers_or_of_bins():
    made = data.load("redshift", seed=3, options=OPTIONS)
    assert list(made.train.inputs) == ["spectrum", "noise"] and made.num_classes == 0
    assert made.train.target.dtype == np.float32 and made.train.target.max() <= 0.6
    again, other = (data.load("redshift", seed=seed, options=OPTIONS) for seed in (3, 4))
    assert made.fingerprint() == again.fingerprint() != other.fingerprint()
    binned = data.load("redshift", seed=3, options=OPTIONS | {"bins": 6})
    assert binned.num_classes == 6 and binned.train.target.dtype == np.int32
    np.testing.assert_array_equal(binned.train.target, (made.train.target / 0.1).astype(int).clip(0, 5))


def test_templates_of_the_evaluation_are_others(monkeypatch):
    used = []
    simulate = redshift.simulate
    monkeypatch.setattr(
        redshift, "simulate", lambda t, own, *a, **k: used.append(set(own)) or simulate(t, own, *a, **k)
    )
    data.load("redshift", options=OPTIONS)
    train, evaluation = used
    assert not train & evaluation and train | evaluation == set(range(12)) and evaluation == set(redshift.HELD_OUT)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"templates": "fsps"}, r"prepare_data\.py redshift --data_dir=.*made-up ones, which are for tests"),
        ({"templates": "fps"}, "one of fsps, analytic"),
        ({"signal_to_noise": (5.0, 2.0)}, r"signal_to_noise=\(5\.0, 2\.0\) must be"),
        ({"highest_z": 0.7}, r"highest_z=0\.7 must be above 0 and at most 0\.6"),
        ({"colour": 1}, r"data\.options does not fit"),
    ],
)
def test_what_cannot_be(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        data.load("redshift", data_dir=str(tmp_path), options=OPTIONS | options)
