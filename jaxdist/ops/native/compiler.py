"""Compiles the native kernels into a library.

The library lies in ~/.cache/jaxdist/native, or in $JAXDIST_NATIVE_DIR, under a name that has a hash of the sources,
the flags and jaxlib's version. Processes of one host that begin together build it once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

SOURCE = pathlib.Path(__file__).parent / "source"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-Wall", "-Wextra", "-Wconversion", "-Werror")
# File, flags of its own. Those that need least of a processor come first: of an inline function that several have, as
# the standard library's, the linker keeps the first copy.
UNITS = (
    ("convolution_handlers.cc", ()),
    ("normalization_handlers.cc", ()),
    ("convolution.cc", ("-mavx2", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx2")),
    ("normalization.cc", ("-mavx2", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx2")),
    ("convolution.cc", ("-mavx512f", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx512")),
    ("normalization.cc", ("-mavx512f", "-mfma", "-DJAXDIST_INSTRUCTIONS=avx512")),
)
_COMPILERS = ("c++", "g++", "clang++")
_SECONDS = 300.0


class CannotBuild(Exception):
    """What is missing, or what the compiler said first, in one sentence."""


def folder() -> pathlib.Path:
    """Where libraries lie."""
    return pathlib.Path(os.environ.get("JAXDIST_NATIVE_DIR") or "~/.cache/jaxdist/native").expanduser()


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
    return folder() / f"jaxdist-{content.hexdigest()[:16]}.so"


def build() -> pathlib.Path:
    """The library, compiled where it is not there yet. Blocks, seconds for the first time.

    Raises:
      CannotBuild: no compiler, an error of the compiler, or a folder that cannot be written.
    """
    path = library_path()
    if path.exists():
        return path
    compiler = _compiler()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if not path.exists():  # another process may have built it meanwhile
                begin = time.monotonic()
                _build(compiler, path)
                logging.info("The native kernels were built in %.1f s: %s", time.monotonic() - begin, path)
    except OSError as e:
        raise CannotBuild(f"{path.parent} cannot be written ({e.strerror}); $JAXDIST_NATIVE_DIR names another") from e
    return path


def _compiler() -> list[str]:
    """The compiler's command: what $CXX says ('ccache g++'), else the first of `_COMPILERS` that is there."""
    if asked := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(asked[0]) is None:
            raise CannotBuild(f"$CXX is {shlex.join(asked)!r}, and {asked[0]} is not there")
        return asked
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found is None:
        raise CannotBuild(f"no C++ compiler is there ({', '.join(_COMPILERS)}, or what $CXX names)")
    return [found]


@contextlib.contextmanager
def _alone(lock: pathlib.Path) -> Iterator[None]:
    """One process of this host at a time; the system frees the lock of one that dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(compiler: Sequence[str], path: pathlib.Path) -> None:
    import jax.ffi

    headers = ("-isystem", jax.ffi.include_dir())
    for left in path.parent.glob(f"{path.stem}-*"):  # of a build that was killed; nobody else builds this one
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}-") as made:
        objects = [f"{made}/{number}.o" for number in range(len(UNITS))]
        commands = [
            [*compiler, *FLAGS, *own, *headers, "-c", str(SOURCE / name), "-o", to]
            for (name, own), to in zip(UNITS, objects, strict=True)
        ]
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_run, commands))
        whole = f"{made}/whole.so"
        _run([*compiler, "-shared", *objects, "-o", whole])
        os.replace(whole, path)  # whole or not at all


def _run(command: Sequence[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise CannotBuild(f"{command[0]} did not compile the kernels: {e}") from e
    if ended.returncode:
        said = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        first = next((line for line in said if "error" in line.lower()), said[0] if said else "it said nothing")
        raise CannotBuild(f"{command[0]} did not compile the kernels: {first[:300]}")
