"""Random flips and crops: a function of an example's position alone."""

from __future__ import annotations

import numpy as np

from jaxdist.data.augment import flip_and_crop


def test_augmentation_shifts_and_flips_by_position_alone():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(64, 8, 8, 3)).astype(np.float32)
    where = np.arange(1000, 1064)
    whole = flip_and_crop(images, where, seed=1)
    np.testing.assert_array_equal(whole[10:20], flip_and_crop(images[10:20], where[10:20], seed=1))
    padded = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    flips, shifts = 0, set()
    for k in range(64):
        found = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(padded[k, top : top + 8, left : left + 8][:, :: -1 if flip else 1], whole[k])
        ]
        assert len(found) == 1
        flips += found[0][2]
        shifts.add(found[0][:2])
    assert 16 < flips < 48 and len(shifts) > 30
