"""Dropout by the native kernel: the bits of the formula."""

from __future__ import annotations

from functools import partial

import hypothesis
import jax
import numpy as np
import pytest
from helpers.native_kernels import load_or_skip
from hypothesis import strategies as st

from jaxdist import ops
from jaxdist.ops import backend


@pytest.fixture(scope="module", autouse=True)
def _kernels():
    load_or_skip()


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4), st.sampled_from([0.0, 0.1, 0.5, 0.97]), st.integers(0, 2**31)
)
def test_it_drops_what_xla_drops(shape, rate, seed):
    rng = np.random.default_rng(seed)
    x, dy = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    x.flat[0] = np.nan  # stays, or is dropped
    key, positions = np.uint32(seed), rng.integers(2**32, size=shape[0], dtype=np.uint32)

    def both(x, dy):
        y, pull = jax.vjp(partial(ops.dropout, key=key, positions=positions, rate=rate), x)
        return y, pull(dy)[0]

    found = []
    for operations in ("xla", "native"):
        backend.use(operations)
        before = backend.traced()["native"]
        lowered = jax.jit(both).lower(x, dy)
        assert backend.traced()["native"] - before == (2 if operations == "native" else 0)
        found.append([np.asarray(a) for a in lowered.compile()(x, dy)])
    for by_xla, by_kernel in zip(*found, strict=True):
        np.testing.assert_array_equal(by_xla, by_kernel)
