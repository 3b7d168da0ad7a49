"""The fast pools against Flax's: values, gradients, ties, odd sizes."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers.gradients import assert_close, numbers, reference, with_gradients

from jaxdist import ops


@pytest.mark.parametrize("size", [6, 7])
def test_pools(size):
    with jax.enable_x64(True):
        x = np.round(numbers(0, 2, size, size, 3))  # with ties
        for fast, plain in ((ops.max_pool, nn.max_pool), (ops.average_pool, nn.avg_pool)):
            wanted = reference(partial(plain, window_shape=(2, 2), strides=(2, 2)))(x)
            assert_close(with_gradients(fast)(x), wanted)
