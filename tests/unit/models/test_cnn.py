"""The small CNN: its parameter count, and initial bits that no setting of JAX changes."""

from __future__ import annotations

import jax
import numpy as np
from helpers.families import build, count


def test_cnn_count():
    assert count(build("cnn", (28, 28, 1))) == (9 * 32 + 32) + (9 * 32 * 64 + 64) + (9216 * 128 + 128) + 1290


def test_initial_bits_do_not_depend_on_x64():
    with jax.enable_x64(True):
        wide = build("cnn", (8, 8, 1)).init_block("conv2", 3)
    jax.tree.map(np.testing.assert_array_equal, wide, build("cnn", (8, 8, 1)).init_block("conv2", 3))
