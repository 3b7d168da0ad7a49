"""Land cover from two kinds of measurement: windows of satellite images, and a made-up pair of hyperspectral and lidar.

landsat         visible [3, 3, 2], near_infrared [3, 3, 2]    6 classes, one sensor: its bands in two groups
synthetic_pair  hyperspectral [7, 7, 144], lidar [7, 7, 1]    15 classes, the sizes of Houston 2013
"""

from __future__ import annotations

import pathlib
import zipfile
import zlib

import numpy as np

from jaxdist.data.dataset import Dataset, Split
from jaxdist.errors import UsageError

FILE = "landsat/windows.npz"  # below data_dir
NUM_TRAIN = 4435  # of 6,435 rows, in the order of the file
CLASSES = 1, 2, 3, 4, 5, 7  # of the file: red soil, cotton, grey soil, damp grey soil, stubble, very damp grey soil
BANDS, CLASSES_OF_PAIR, WINDOW = 144, 15, 7


def windows_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(windows uint8 [n, 3, 3, 4], labels int32 [n], 0 to 5) of the file's rows: 36 values, pixel by pixel, a class.

    Raises:
      ValueError: they are something else.
    """
    if rows.ndim != 2 or rows.shape[1] != 37 or not set(np.unique(rows[:, 36])) <= set(CLASSES):
        raise ValueError(f"rows of 36 values and a class of {CLASSES} are expected, and they are {rows.shape}")
    return rows[:, :36].reshape(-1, 3, 3, 4).astype(np.uint8), np.searchsorted(CLASSES, rows[:, 36]).astype(np.int32)


def landsat(root: pathlib.Path, *, seed: int) -> Dataset:
    """6,435 windows of a Landsat MSS image (Statlog), 4,435 of them for training.

    The file keeps all windows of the published data, in an order of its own: its first 4,435 are not the published
    training part. Windows of the image overlap, those of both parts too, as they do in the published ones.

    Raises:
      UsageError: the file is not there, or not whole.
    """
    del seed
    path = root / FILE
    try:
        with np.load(path) as stored:
            windows, labels = stored["windows"], stored["labels"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise UsageError(
            f"The windows of data.name='landsat' cannot be read from {path} ({e}): fetch them with `python "
            f"tools/prepare_data.py landsat --data_dir={root}`."
        ) from e

    def split(rows: slice) -> Split:
        return Split({"visible": windows[rows, :, :, :2], "near_infrared": windows[rows, :, :, 2:]}, labels[rows])

    # The values lie between 27 and 157, most of them within 40 of their mean.
    return Dataset("landsat", split(slice(NUM_TRAIN)), split(slice(NUM_TRAIN, None)), len(CLASSES), scale=40.0)


def synthetic_pair(*, seed: int, num_train: int = 2832, num_eval: int = 2000, noise: float = 0.6) -> Dataset:
    """Made-up spectra and heights around a pixel, for load and traffic: of classes 2k and 2k + 1 the spectra are alike
    and the heights are not, so that neither input alone tells all classes apart. The window's other pixels are the
    class's with less and less certainty.
    """
    rng = np.random.default_rng([seed, 31])
    smooth = np.cumsum(rng.normal(size=(CLASSES_OF_PAIR // 2 + 1, BANDS)), axis=1)
    spectra = (smooth - smooth.mean(1, keepdims=True)) / smooth.std(1, keepdims=True)
    heights = np.where(np.arange(CLASSES_OF_PAIR) % 2, 1.0, -1.0) * rng.uniform(0.7, 1.3, CLASSES_OF_PAIR)
    from_centre = np.hypot(*np.mgrid[-3:4, -3:4])

    def split(count: int) -> Split:
        labels = rng.integers(CLASSES_OF_PAIR, size=count)
        others = rng.integers(CLASSES_OF_PAIR, size=(count, WINDOW, WINDOW))
        same = rng.uniform(size=others.shape) < np.exp(-from_centre / 4)
        pixels = np.where(same, labels[:, None, None], others)
        spectrum = spectra[pixels // 2].astype(np.float32)
        spectrum += noise * rng.standard_normal(spectrum.shape, dtype=np.float32)
        height = heights[pixels][..., None] + noise * rng.normal(size=(*pixels.shape, 1))
        return Split({"hyperspectral": spectrum, "lidar": height.astype(np.float32)}, labels.astype(np.int32))

    return Dataset("synthetic pair", split(num_train), split(num_eval), CLASSES_OF_PAIR)
