"""The native kernels against the definition of a convolution, in float64."""

from __future__ import annotations

import hypothesis
import jax
import numpy as np
import pytest
from helpers.native_kernels import load_or_skip
from hypothesis import strategies as st

from jaxdist.ops.native import convolution as native


@pytest.fixture(scope="module", autouse=True)
def _kernels():
    load_or_skip()


def windows(x, kernel, strides, padding):
    """[batch, h', w', in, kh, kw] of x with its padding."""
    padded = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    found = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
    return found[:, :: strides[0], :: strides[1]]


def reference(x, kernel, dy, strides, padding):
    """(y, dx, dk) by the formula."""
    seen = windows(x, kernel, strides, padding)
    wide = kernel.astype(np.float64)
    y = np.einsum("nhwiab,abio->nhwo", seen, wide)
    dk = np.einsum("nhwiab,nhwo->abio", seen, dy.astype(np.float64))
    (top, _), (left, _) = padding
    padded = np.zeros((x.shape[0], x.shape[1] + sum(padding[0]), x.shape[2] + sum(padding[1]), x.shape[3]))
    for a in range(kernel.shape[0]):
        for b in range(kernel.shape[1]):
            rows = slice(a, a + strides[0] * (dy.shape[1] - 1) + 1, strides[0])
            columns = slice(b, b + strides[1] * (dy.shape[2] - 1) + 1, strides[1])
            padded[:, rows, columns] += dy @ wide[a, b].T
    return y, padded[:, top : top + x.shape[1], left : left + x.shape[2]], dk


@st.composite
def shapes(draw):
    """Of x and a kernel, with strides and padding, such that at least one pixel comes out."""
    taps = [draw(st.integers(1, 5)) for _ in range(2)]
    padding = tuple((draw(st.integers(0, t)), draw(st.integers(0, t))) for t in taps)
    size = [draw(st.integers(max(t - sum(p), 1), 19)) for t, p in zip(taps, padding, strict=True)]
    channels = [draw(st.integers(1, 67)) for _ in range(2)]
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return (draw(st.integers(1, 10)), *size, channels[0]), (*taps, *channels), strides, padding


@hypothesis.settings(max_examples=40)
@hypothesis.given(shapes(), st.integers(0, 2**31))
def test_it_and_its_gradients_are_what_the_formula_says(shape, seed):
    x_shape, kernel_shape, strides, padding = shape
    rng = np.random.default_rng(seed)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in (x_shape, kernel_shape))
    out = [
        (n + sum(p) - t) // s + 1 for n, p, t, s in zip(x_shape[1:3], padding, kernel_shape[:2], strides, strict=True)
    ]
    dy = rng.normal(size=(x_shape[0], *out, kernel_shape[3])).astype(np.float32)
    found = (
        native.forward(x, kernel, strides, padding),
        native.input_gradient(dy, kernel, x_shape, strides, padding),
        native.kernel_gradient(x, dy, kernel_shape, strides, padding),
    )
    for name, one, wanted in zip(("y", "dx", "dk"), found, reference(x, kernel, dy, strides, padding), strict=True):
        assert one.shape == wanted.shape
        np.testing.assert_allclose(one, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-7, rtol=0, err_msg=name)


def test_shapes_that_do_not_fit_are_refused():
    x, kernel = np.ones((2, 4, 4, 3), np.float32), np.ones((3, 3, 5, 8), np.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="the shapes are no convolution"):
        jax.block_until_ready(native.forward(x, kernel, (1, 1), ((1, 1), (1, 1))))


def test_sums_have_the_same_bits_whatever_the_number_of_threads(run_alone):
    """Eight parts, added in their order."""
    one, two = (run_alone(cores) for cores in (1, 2))
    assert one == two


@pytest.fixture
def run_alone(tmp_path):
    """(number of cores) -> a kernel gradient's bits, as a process with so many has them."""
    import os
    import subprocess
    import sys

    program = (
        "import os, sys, hashlib; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])\n"
        "import numpy as np\n"
        "from jaxdist.ops.native import convolution, library\n"
        "library.load()\n"
        "rng = np.random.default_rng(0)\n"
        "x, dy = (rng.normal(size=(21, 9, 9, c)).astype(np.float32) for c in (16, 12))\n"
        "dk = convolution.kernel_gradient(x, dy, (3, 3, 16, 12), (1, 1), ((1, 1), (1, 1)))\n"
        "print(hashlib.sha256(np.asarray(dk).tobytes()).hexdigest())\n"
    )

    def run(cores: int) -> str:
        environ = os.environ | {"PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
        environ.pop("JAX_NUM_CPU_DEVICES", None)
        ended = subprocess.run(
            [sys.executable, "-c", program, str(cores)], env=environ, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout

    return run
