"""glibc's malloc told to keep what is freed.

By default every buffer above 128 KiB comes fresh from the kernel and goes back to it: each use of a gradient-sized
buffer pays a page fault for every 4 KiB. One arena serves all threads, because those of other threads than the main one
hold 64 MiB at most and go back whole: the temporary memory of a step is larger. BUILD_NOTES.md has what this costs.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Applies to this process from now on; False where there is no glibc, or `MALLOC_*` variables say otherwise."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, 2**26), (_M_ARENA_MAX, 1))
    done = all(mallopt(name, value) == 1 for name, value in settings)
    if not done:
        logging.info("malloc keeps its own habits.")
    return done
