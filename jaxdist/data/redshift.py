"""Galaxy spectra that are simulated from templates, and the redshift of each: to be estimated.

    rest      templates, with and without emission lines      mixed by Dirichlet weights, lines made weaker
    observed  stretched by 1 + z, averaged over 1,800 logarithmic bins from 3,800 to 9,200 Angstrom
    measured  divided by its median, noise added

The templates of the evaluation are others than those of the training (a template's versions with and without lines
together), not only other noise. These are simulations, and no survey has measured them.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from jaxdist.data.dataset import Dataset, Split
from jaxdist.errors import UsageError

FILE = "redshift/templates.npz"  # below data_dir
HELD_OUT = (2, 6, 10)  # of twelve templates, those of the evaluation
LOWEST, HIGHEST, BINS = 3800.0, 9200.0, 1800  # Angstrom


@dataclasses.dataclass(frozen=True)
class Templates:
    """Spectra at rest on one grid.

    Attributes:
      wavelength: [n], Angstrom, ascending.
      continuum: [templates, n], without emission lines, and `lines`: what these add; in units of a template's median
        continuum in the optical.
    """

    wavelength: np.ndarray
    continuum: np.ndarray
    lines: np.ndarray

    @classmethod
    def read(cls, path: pathlib.Path) -> Templates:
        """What `tools/prepare_data.py redshift` has written.

        Raises:
          UsageError: it is not there, or not whole.
        """
        try:
            with np.load(path) as stored:
                return cls(*(stored[field.name] for field in dataclasses.fields(cls)))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
            raise UsageError(
                f"The templates of data.name='redshift' cannot be read from {path} ({e}): fetch them with `python "
                f"tools/prepare_data.py redshift --data_dir={path.parent.parent}`, or set data.options.templates="
                "'analytic' for made-up ones, which are for tests."
            ) from e

    @classmethod
    def analytic(cls) -> Templates:
        """Twelve made-up ones: a slope, a break at 4,000 Angstrom, absorption and emission lines. For tests."""
        wavelength = np.arange(2300.0, 9300.0, 1.0)
        rng = np.random.default_rng(12)
        continuum, lines = [], []
        for age in np.linspace(0, 1, 12):
            blue = (wavelength / 5500.0) ** rng.uniform(-1.5, 0.5)
            step = 1 - 0.5 * age / (1 + np.exp((wavelength - 4000) / 20))
            dips = sum(0.3 * age * _bump(wavelength, at, 8) for at in (3933, 3968, 4304, 5175, 5893))
            continuum.append(blue * step * (1 - dips))
            strength = (1.2 - age) * rng.uniform(0.5, 2.0, 6)
            peaks = zip(strength, (3727, 4861, 4959, 5007, 6563, 6725), strict=True)
            lines.append(20 * sum(one * _bump(wavelength, at, 3) for one, at in peaks))
        return cls(wavelength, np.array(continuum), np.array(lines))


def _bump(wavelength: np.ndarray, at: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((wavelength - at) / width) ** 2)


def load(
    root: pathlib.Path,
    *,
    seed: int,
    num_train: int = 12_000,
    num_eval: int = 2000,
    templates: str = "fsps",
    highest_z: float = 0.6,
    signal_to_noise: tuple[float, float] = (3.0, 20.0),
    line_strength: tuple[float, float] = (0.005, 0.1),
    concentration: float = 0.5,
    bins: int = 0,
) -> Dataset:
    """Inputs `spectrum` and `noise`, each [1800, 1]; the target is z, or its bin.

    Args:
      root: where `FILE` is.
      templates: 'fsps' (prepared) or 'analytic' (made up).
      signal_to_noise, line_strength: drawn log-uniformly from such a range, for each spectrum; the noise is that of a
        bin, lines are multiplied by the strength (at 1 that of [O II] is 20 times the continuum).
      concentration: of the Dirichlet distribution of a mixture's weights.
      bins: targets are so many equal bins of z, classes; 0: z itself.

    Raises:
      UsageError: the templates are not there, or a value cannot be.
    """
    if templates not in ("fsps", "analytic"):
        raise UsageError(f"data.options.templates={templates!r} is not known; one of fsps, analytic.")
    for name, (low, high) in (("signal_to_noise", signal_to_noise), ("line_strength", line_strength)):
        if not 0 < low <= high:
            raise UsageError(f"data.options.{name}={(low, high)} must be (low, high) with 0 < low <= high.")
    if not 0 < highest_z <= 0.6 or concentration <= 0 or min(num_train, num_eval) < 1 or bins < 0:
        raise UsageError(
            f"data.options: highest_z={highest_z} must be above 0 and at most 0.6, concentration={concentration} above "
            f"0, num_train={num_train} and num_eval={num_eval} 1 or more, bins={bins} 0 or more."
        )
    found = Templates.analytic() if templates == "analytic" else Templates.read(root / FILE)
    every = np.arange(len(found.continuum))
    held = np.isin(every, HELD_OUT)
    ranges: dict[str, Any] = {
        "highest_z": highest_z, "snr": signal_to_noise, "strength": line_strength, "concentration": concentration,
    }  # fmt: skip

    def split(own: np.ndarray, count: int, which: int) -> Split:
        rng = np.random.default_rng([seed, 29, which])
        spectrum, noise, z = simulate(found, own, count, rng, **ranges)
        target: np.ndarray = z.astype(np.float32)
        if bins:
            target = np.minimum(z / highest_z * bins, bins - 1).astype(np.int32)
        return Split({"spectrum": spectrum, "noise": noise}, target)

    return Dataset("redshift", split(every[~held], num_train, 0), split(every[held], num_eval, 1), bins)


def simulate(
    templates: Templates,
    own: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    highest_z: float,
    snr: tuple[float, float],
    strength: tuple[float, float],
    concentration: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(spectrum, noise, each float32 [count, 1800, 1]; z float64 [count]) from the templates `own`."""
    edges = np.geomspace(LOWEST, HIGHEST, BINS + 1)
    spectrum = np.empty((count, BINS, 1), np.float32)
    noise = np.empty_like(spectrum)
    z = rng.uniform(0, highest_z, count)
    weights = rng.dirichlet(np.full(len(own), concentration), count)
    strengths, quality = (np.exp(rng.uniform(np.log(low), np.log(high), count)) for low, high in (strength, snr))
    steps = np.diff(templates.wavelength, prepend=templates.wavelength[0])
    # Integrals up to each wavelength: a bin's mean flux is a difference of two, however fine the templates are.
    continuum, lines = (np.cumsum(part[own] * steps, axis=1) for part in (templates.continuum, templates.lines))
    for k in range(count):
        rest = edges / (1 + z[k])
        whole = np.interp(rest, templates.wavelength, weights[k] @ (continuum + strengths[k] * lines))
        flux = np.diff(whole) / np.diff(rest)
        flux /= np.median(flux)
        # Photons: what is brighter is measured with more noise, and with less of it relative to itself.
        sigma = np.sqrt(np.maximum(flux, 0.05)) / quality[k]
        spectrum[k, :, 0] = flux + sigma * rng.normal(size=BINS)
        noise[k, :, 0] = sigma
    return spectrum, noise, z
