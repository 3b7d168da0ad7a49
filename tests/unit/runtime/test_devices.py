"""Settings of JAX's that leave no device are refused with the variable's name."""

from __future__ import annotations

import jax
import pytest

from jaxdist.errors import UsageError
from jaxdist.runtime import devices


def test_this_process_has_devices():
    devices.check_settings()
    assert devices.local() == jax.local_devices()


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda'")])
def test_a_platform_that_is_not_here(monkeypatch, error):
    def none():
        raise error

    monkeypatch.setattr(jax, "local_devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    words = str(error) or "AssertionError inside JAX"
    with pytest.raises(UsageError, match=rf"JAX_PLATFORMS='cuda' asks for devices .*{words}.*unset it"):
        devices.check_settings()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(UsageError, match=r"JAX finds no device .*"):
        devices.local()
    monkeypatch.setattr(jax, "local_devices", list)
    with pytest.raises(UsageError, match="finds no device in this process"):
        devices.local()


def test_without_compilation_nothing_is_trained():
    with jax.disable_jit(), pytest.raises(UsageError, match="JAX_DISABLE_JIT is set"):
        devices.check_settings()
