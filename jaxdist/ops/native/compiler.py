"""Which files the library of native kernels is made of, and for which machines; `jaxdist.cxx_library` makes it.

Its name has a hash of the sources, the flags and jaxlib's version.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import platform
import sys

from jaxdist import cxx_library
from jaxdist.cxx_library import FLAGS, CannotBuild

SOURCE = pathlib.Path(__file__).parent / "source"
# File, flags of its own. Those that need least of a processor come first: of an inline function that several have, as
# the standard library's, the linker keeps the first copy.
UNITS = (
    ("convolution_handlers.cc", ()),
    ("normalization_handlers.cc", ()),
    ("dropout_handlers.cc", ()),
    ("convolution.cc", ("-mavx2", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx2")),
    ("normalization.cc", ("-mavx2", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx2")),
    ("dropout.cc", ("-mavx2", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx2")),
    ("convolution.cc", ("-mavx512f", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx512")),
    ("normalization.cc", ("-mavx512f", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx512")),
    ("dropout.cc", ("-mavx512f", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx512")),
)


@functools.cache
def library_path() -> pathlib.Path:
    """Of the library for this machine, whether or not it is there.

    Raises:
      CannotBuild: there are no kernels for this machine.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not sys.platform.startswith("linux"):
        raise CannotBuild(f"there are kernels for Linux on x86-64, and this is {sys.platform} on {platform.machine()}")
    import jaxlib

    content = hashlib.sha256(repr((jaxlib.__version__, FLAGS, UNITS)).encode())
    for path in sorted(SOURCE.iterdir()):
        content.update(path.name.encode() + path.read_bytes())
    return cxx_library.folder() / f"jaxdist-{content.hexdigest()[:16]}.so"


def likely() -> bool:
    """Whether this process can probably use the library: it is there or can be made, for this processor. Does not
    block."""
    try:
        path = library_path()
        there = cxx_library.is_there(path) or (bool(cxx_library.command()) and cxx_library.can_be_written(path))
        return there and {"avx2", "fma"} <= set(pathlib.Path("/proc/cpuinfo").read_text().split())
    except (CannotBuild, OSError):
        return False


def build() -> pathlib.Path:
    """The library, compiled where it is not there yet. Blocks, seconds for the first time.

    Raises:
      CannotBuild: no kernels for this machine, or what `cxx_library.build` raises.
    """
    path = library_path()
    if cxx_library.is_there(path):
        return path
    import jax.ffi

    headers = ("-isystem", jax.ffi.include_dir())
    return cxx_library.build(path, "the native kernels", [(SOURCE / name, (*own, *headers)) for name, own in UNITS])
