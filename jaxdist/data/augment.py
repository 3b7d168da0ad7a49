"""Random horizontal flip and pad-and-crop (He et al. 2015, section 4.2), decided by (seed, position) alone."""

from __future__ import annotations

import numpy as np

from jaxdist.data.dataset import Inputs

PADDING = 4  # pixels added on each side before the crop


def random_words(seed: int, positions: np.ndarray) -> np.ndarray:
    """uint64 [n]: SplitMix64 of (seed, position), Steele et al. 2014."""
    with np.errstate(over="ignore"):
        z = positions.astype(np.uint64) + np.uint64(seed % 2**32) * np.uint64(0xD1342543DE82EF95)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def flip_and_crop(images: np.ndarray, positions: np.ndarray, seed: int) -> np.ndarray:
    """Normalised images [n, h, w, c] (so that the padding is zero, the mean), each flipped or not and shifted."""
    n, height, width, _ = images.shape
    words = random_words(seed, positions)
    flip = (words & np.uint64(1)).astype(bool)
    span = np.uint64(2 * PADDING + 1)
    top = ((words >> np.uint64(8)) % span).astype(np.int64)
    left = ((words >> np.uint64(32)) % span).astype(np.int64)
    padded = np.pad(images, [(0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)])
    columns = left[:, None] + np.where(flip[:, None], np.arange(width - 1, -1, -1), np.arange(width))
    rows = top[:, None] + np.arange(height)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def flip_and_crop_images(inputs: Inputs, positions: np.ndarray, seed: int) -> Inputs:
    """Of all inputs [n, h, w, c] alike: bands of one place, say, stay one upon the other. Others stay as they are."""
    return {name: flip_and_crop(x, positions, seed) if x.ndim == 4 else x for name, x in inputs.items()}
