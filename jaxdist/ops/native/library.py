"""The library of native kernels: loaded, and made known to XLA."""

from __future__ import annotations

import ctypes
import functools

import jax

from jaxdist.cxx_library import CannotBuild
from jaxdist.ops.native.compiler import build

OPERATIONS = (
    "convolve",
    "convolve_input_gradient",
    "convolve_kernel_gradient",
    "moments",
    "normalize",
    "gradient_sums",
    "normalize_gradient",
    "dropout",
)
_INSTRUCTIONS = {2: "AVX2", 512: "AVX-512"}


class NotThere(Exception):
    """Why this process has no native kernels, and what helps, in one sentence."""


@functools.cache
def load() -> str:
    """Builds the library where it is not there yet, loads it once for this process, and says for which instructions.

    Raises:
      NotThere: it cannot be built, loaded, or used on this processor.
    """
    try:
        path = build()
    except CannotBuild as e:
        raise NotThere(str(e)) from e
    try:
        library = ctypes.CDLL(str(path))
        found = library.jaxdist_instructions()
    except (OSError, AttributeError) as e:
        raise NotThere(f"{path} cannot be loaded ({e}); remove it, and it is built again") from e
    if not found:
        raise NotThere("this processor has no AVX2 and FMA")
    for name in OPERATIONS:
        handler = jax.ffi.pycapsule(getattr(library, f"jaxdist_{name}"))
        jax.ffi.register_ffi_target(target(name), handler, platform="cpu")
    return _INSTRUCTIONS[found]


def target(operation: str) -> str:
    """How programs name one of `OPERATIONS`."""
    return f"jaxdist_{operation}_1"  # another number where its arguments mean something else
