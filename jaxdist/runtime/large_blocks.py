"""The library that stands in front of glibc's malloc for blocks of 32 to 512 MiB (`source/large_blocks.cc`)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import pathlib

_SOURCE = pathlib.Path(__file__).parent / "source" / "large_blocks.cc"
VARIABLE = "LD_PRELOAD"
# Every process that a run starts loads it: nothing but glibc is needed.
_FLAGS = ("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-fno-builtin")


def library() -> pathlib.Path | None:
    """Where it is; built now where there is a compiler, which takes 0.2 s once for each host. None: nowhere."""
    # Imported here: every process of a run calls this before anything else, and few build.
    from jaxdist.cxx_library import CannotBuild, build, folder

    made_of = repr((_FLAGS, os.uname().machine)).encode() + _SOURCE.read_bytes()
    try:
        path = folder() / f"large-blocks-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
        if any(c in str(path) for c in " :$"):  # what separates names in the variable, and what is replaced in them
            return None
        build(path, "large blocks", [(_SOURCE, _FLAGS)])
        ctypes.CDLL(str(path), os.RTLD_NOW)  # what cannot be loaded would be complained of by every process
    except (CannotBuild, OSError):  # who asks for the native kernels is told why
        return None
    return path


def preloaded() -> bool:
    """Whether this process has it."""
    return any(pathlib.Path(name).name.startswith("large-blocks-") for name in os.environ.get(VARIABLE, "").split(":"))
