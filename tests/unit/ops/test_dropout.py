"""Dropout by a hash of counters: linear, of the right share, whatever else is in the batch."""

from __future__ import annotations

import jax
import numpy as np

from jaxdist import ops


def test_dropout_is_linear_and_drops_its_share():
    key, positions = np.uint32(7), np.arange(50, dtype=np.uint32)
    x = np.ones((50, 20, 20, 3), np.float32)

    def both(x, key, positions):
        y, pull = jax.vjp(lambda x: ops.dropout(x, key, positions, 0.3), x)
        return y, pull(x)[0]

    y, pulled = map(np.asarray, jax.jit(both)(x, key, positions))
    kept = y > 0
    assert abs(kept.mean() - 0.7) < 0.01
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(pulled, y)
    # Whatever else is in the batch.
    some = np.array([4, 9, 30])
    few = jax.jit(lambda x, positions: ops.dropout(x, key, positions, 0.3))(x[:3], positions[some])
    np.testing.assert_array_equal(few, y[some])
