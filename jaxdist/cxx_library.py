"""Compiles C++ of this package into a library, on the host that uses it.

Libraries lie in ~/.cache/jaxdist/native, or in $JAXDIST_NATIVE_DIR, under names that say from what they are made.
Processes of one host that begin together build one once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import logging
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-Wall", "-Wextra", "-Wconversion", "-Werror")
COMPILERS = ("c++", "g++", "clang++")
_SECONDS = 300.0


class CannotBuild(Exception):
    """What is missing, or what the compiler said first, in one sentence."""


def folder() -> pathlib.Path:
    """Where libraries lie.

    Raises:
      CannotBuild: this user has no home, and no variable says where else.
    """
    try:
        return pathlib.Path(os.environ.get("JAXDIST_NATIVE_DIR") or "~/.cache/jaxdist/native").expanduser().absolute()
    except (OSError, RuntimeError):
        raise CannotBuild("there is no home folder; $JAXDIST_NATIVE_DIR names another place") from None


def is_there(path: pathlib.Path) -> bool:
    """Whether a library has been built; also where the folder cannot be read."""
    return os.path.exists(path)


def can_be_written(path: pathlib.Path) -> bool:
    """Whether the folder of `path` is there or could be made."""
    there = next((p for p in path.parents if os.path.exists(p)), None)
    return there is not None and os.access(there, os.W_OK | os.X_OK)


def build(path: pathlib.Path, what: str, units: Sequence[tuple[pathlib.Path, Sequence[str]]]) -> pathlib.Path:
    """The library `path` of files and each one's own flags, compiled where it is not there yet. Blocks, for seconds.

    Raises:
      CannotBuild: no compiler, an error of the compiler, or a folder that cannot be written.
    """
    if is_there(path):
        return path
    compiler = command()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if not is_there(path):  # another process may have built it meanwhile
                begin = time.monotonic()
                _build(compiler, path, what, units)
                logging.info("%s: built in %.1f s, %s", what.capitalize(), time.monotonic() - begin, path)
    except OSError as e:
        raise CannotBuild(f"{path.parent} cannot be written ({e.strerror}); $JAXDIST_NATIVE_DIR names another") from e
    return path


def command() -> list[str]:
    """The compiler's: what $CXX says ('ccache g++'), else the first of `COMPILERS` that is there.

    Raises:
      CannotBuild: there is none.
    """
    try:
        asked = shlex.split(os.environ.get("CXX", ""))
    except ValueError as e:
        raise CannotBuild(f"$CXX is {os.environ['CXX']!r}: {e}") from None
    if asked:
        if shutil.which(asked[0]) is None:
            raise CannotBuild(f"$CXX is {shlex.join(asked)!r}, and {asked[0]} is not there")
        return asked
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise CannotBuild(f"no C++ compiler is there ({', '.join(COMPILERS)}, or what $CXX names)")
    return [found]


@contextlib.contextmanager
def _alone(lock: pathlib.Path) -> Iterator[None]:
    """One process of this host at a time; the system frees the lock of one that dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(
    compiler: Sequence[str], path: pathlib.Path, what: str, units: Sequence[tuple[pathlib.Path, Sequence[str]]]
) -> None:
    for left in path.parent.glob(f"{path.stem}-*"):  # of a build that was killed; nobody else builds this one
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}-") as made:
        objects = [f"{made}/{number}.o" for number in range(len(units))]
        commands = [
            [*compiler, *FLAGS, *own, "-c", str(source), "-o", to]
            for (source, own), to in zip(units, objects, strict=True)
        ]
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_run, commands, [what] * len(commands)))
        whole = f"{made}/whole.so"
        _run([*compiler, "-shared", "-Wl,--as-needed", *objects, "-o", whole], what)
        os.replace(whole, path)  # whole or not at all


def _run(command: Sequence[str], what: str) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise CannotBuild(f"{command[0]} did not compile {what}: {e}") from e
    if ended.returncode:
        said = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        first = next((line for line in said if "error" in line.lower()), said[0] if said else "it said nothing")
        raise CannotBuild(f"{command[0]} did not compile {what}: {first[:300]}")
