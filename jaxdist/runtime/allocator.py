"""glibc's malloc, set for large arrays that come and go with each step.

By default every buffer above 128 KiB comes fresh from the kernel and goes back to it: each use of a gradient-sized
buffer pays a page fault for every 4 KiB. One arena serves all threads, because those of other threads than the main one
hold 64 MiB at most and go back whole. What is freed stays in the heap, up to 32 MiB for one block:

    block             place                                       when it is freed
    < 32 MiB          heap, in pages of 2 MiB                     stays
    32 to 512 MiB     mapped by itself, in pages of 2 MiB         stays, with `large_blocks`; else back to the kernel
    larger            mapped by itself, in pages of 2 MiB         back to the kernel

Larger blocks are the temporary memory of a step, above all. In the heap they would not come back to one place: to align
a block glibc asks for more than the block, and what it cuts off is in use by the time the block is freed; the next
request of the same size does not fit. So a library of this package keeps them, where there is a compiler to build it.
BUILD_NOTES.md has the figures.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pathlib
import sys

from jaxdist.runtime import large_blocks

_KEPT = {  # name in glibc.malloc: (number in malloc.h, value)
    "trim_threshold": (-1, -1),  # unsigned there, and no heap is so long; 2 GiB gave memory back after each step
    "top_pad": (-2, 2**26),
    "arena_max": (-8, 1),
}
_NO_BLOCK_BY_ITSELF = (-4, 0)  # mmap_max
_VARIABLE = "GLIBC_TUNABLES"
TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        **{name: value % 2**64 for name, (_, value) in _KEPT.items()},
        "mmap_threshold": 2**25,  # the most that glibc takes
        "hugetlb": 1,
    }.items()
)
_FIRST_GLIBC_WITH_LARGE_PAGES = (2, 35)
_LARGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_large_pages(program: str) -> None:
    """Starts this process's program anew, under the same number, with the settings above.

    Large pages are a variable that glibc reads before a program begins. To be called first in `program`, which is a
    word of the command line (`-m PROGRAM`, or a path): it costs 0.1 s. Returns where there is nothing to do: it has
    been done, somebody has settings of malloc, kernel or glibc have no such pages, or the interpreter was started for
    another program, which runs this one. `keep_freed_memory` does without them then.
    """
    if _settings_of_others() or _made() or program not in sys.orig_argv or not _large_pages():
        return
    environ = os.environ | {_VARIABLE: ":".join(filter(None, (os.environ.get(_VARIABLE), TUNABLES)))}
    # A library of somebody else's may be a malloc, too.
    if large_blocks.VARIABLE not in environ and (library := large_blocks.library()) is not None:
        environ[large_blocks.VARIABLE] = str(library)
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)
    except OSError as e:
        print(f"No large pages: Python could not be started again ({e}).", file=sys.stderr)


def keep_freed_memory() -> bool:
    """Applies to this process from now on; False where there is no glibc, or variables of malloc say otherwise.

    Without large pages, all blocks are in the heap: fresh pages of 4 KiB would cost more than a block that moves.
    """
    if sys.platform != "linux" or _settings_of_others():
        return False
    if _made():
        if not large_blocks.preloaded():
            logging.info("Large blocks of memory are mapped anew in each step: there is no library that keeps them.")
        return True
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    done = all(mallopt(number, value) == 1 for number, value in (*_KEPT.values(), _NO_BLOCK_BY_ITSELF))
    if not done:
        logging.info("malloc keeps its own habits.")
    return done


def _made() -> bool:
    return TUNABLES in os.environ.get(_VARIABLE, "")


def _settings_of_others() -> bool:
    tunables = os.environ.get(_VARIABLE, "").replace(TUNABLES, "")
    return "glibc.malloc." in tunables or any(name.startswith("MALLOC_") for name in os.environ)


def _large_pages() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        if name != "glibc" or tuple(int(number) for number in version.split(".")) < _FIRST_GLIBC_WITH_LARGE_PAGES:
            return False
        return "[never]" not in _LARGE_PAGES.read_text()
    except (OSError, ValueError):  # also where there is no such name of `confstr`
        return False
