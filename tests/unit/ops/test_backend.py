"""Which back end operations are traced for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.native_kernels import load_or_skip

from jaxdist.errors import UsageError
from jaxdist.ops import backend, batch_norm, conv
from jaxdist.ops.native import library

AROUND = ((1, 1), (1, 1))


@pytest.fixture
def native():
    load_or_skip()


def gradients(dtype):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), dtype) for s in ((4, 8, 8, 5), (3, 3, 5, 7)))
    return jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel, (2, 1), AROUND) ** 2), (0, 1))(x, kernel)


def test_both_give_the_same_numbers_and_each_is_counted(native, x64):
    wanted, before = gradients(np.float32), backend.traced()
    assert backend.in_use() == "xla"
    assert backend.use("auto") in ("native (AVX2)", "native (AVX-512)")
    for one, other in zip(gradients(np.float32), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
    assert backend.traced() == {"native": before["native"] + 2, "xla": before["xla"]}
    gradients(np.float64)  # which they do not take
    assert backend.traced() == {"native": before["native"] + 2, "xla": before["xla"] + 2}
    assert backend.use("xla") == "xla"
    for one, other in zip(gradients(np.float32), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_kernel_larger_than_the_image_and_a_batch_of_batches(native):
    """What XLA's operations take, the others take, too."""
    backend.use("native")
    x, kernel = jnp.ones((3, 2, 4, 4, 5)), jnp.ones((5, 5, 5, 7))
    none = ((0, 0), (0, 0))
    assert conv(x[0], kernel, (1, 1), none).shape == (2, 0, 0, 7)
    each = jax.vmap(lambda x: conv(x, kernel, (1, 1), AROUND))(x)
    np.testing.assert_allclose(each[2], conv(x[2], kernel, (1, 1), AROUND))
    one = jnp.ones(16)
    batched = jax.vmap(lambda x: batch_norm(x, one, one, 1e-5, True, None)[0])(jnp.ones((3, 2, 4, 4, 16)))
    assert batched.shape == (3, 2, 4, 4, 16)


def test_without_them_auto_says_so_and_native_is_refused(monkeypatch, caplog):
    def missing() -> str:
        raise library.NotThere("no C++ compiler is there")

    monkeypatch.setattr(library, "load", missing)
    assert backend.use("auto") == "xla"
    words = "python -m jaxdist.ops.native.build builds them, once for each host. The reason: no C++ compiler is there."
    assert words in caplog.text
    with pytest.raises(UsageError, match=r"ops\.backend=native: this process has no native kernels"):
        backend.use("native")


def test_other_devices_have_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert backend.use("auto") == "xla"
    with pytest.raises(UsageError, match="the kernels are for CPUs, and this process computes on gpu"):
        backend.use("native")
