"""The devices that JAX finds for this process, and the settings of JAX's that leave it none."""

from __future__ import annotations

import os

import jax

from jaxdist.errors import UsageError


def check_settings() -> None:
    """Refuses variables with which nothing can be trained. Starts devices only where JAX_PLATFORMS names some.

    Raises:
      UsageError: which variable, and the remedy.
    """
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        raise UsageError("JAX_DISABLE_JIT is set, and jaxdist's steps are compiled programs: unset it.")
    if os.environ.get("JAX_PLATFORMS"):
        local()


def local() -> list[jax.Device]:
    """This process's devices, at least one.

    Raises:
      UsageError: JAX finds none.
    """
    try:
        found = jax.local_devices()
    except (RuntimeError, AssertionError, ValueError) as e:  # an unknown platform is an assertion without words
        why = " ".join(str(e).split()) or f"{type(e).__name__} inside JAX"
        platforms = os.environ.get("JAX_PLATFORMS", "")
        asked = (
            f"JAX_PLATFORMS={platforms!r} asks for devices that this host, or this installation of JAX, does not have"
        )
        raise UsageError(f"{asked if platforms else 'JAX finds no device'} ({why}); on a CPU host unset it.") from e
    if not found:
        raise UsageError("JAX finds no device in this process.")
    return found
