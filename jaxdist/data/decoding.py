"""Processes that decode examples of a prepared folder, beside the one that trains.

Decoding a small PNG is Python code for the most part and holds the interpreter's lock: threads of one process decode no
faster than one of them (measured: experiments/results/input.md). Each process here is an interpreter of its own, which
imports neither JAX nor the user's program, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing.connection
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from jaxdist.data.tfds_source import open_splits

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from jaxdist.data import decoding; decoding.serve()"

_ENDING_SECONDS = 5.0  # between the end of a process's pipe and its own


class DecoderLost(Exception):
    """A decoding process has ended by itself."""


class Decoders:
    """So many processes, each decoding one request at a time; used by any number of threads.

    Args:
      folder: of one version of a data set.
      count: processes; they are started here, and used as soon as they are ready.
    """

    def __init__(self, folder: str, count: int) -> None:
        self._idle: queue.SimpleQueue[tuple[subprocess.Popen[bytes], Connection]] = queue.SimpleQueue()
        self._all: list[tuple[subprocess.Popen[bytes], Connection]] = []
        for _ in range(count):
            ours, theirs = multiprocessing.Pipe()
            command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), folder, str(theirs.fileno())]
            one = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL), ours
            theirs.close()
            self._all.append(one)
            self._idle.put(one)

    def decode(self, split: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(images [n, ...], labels int32 [n]) of `rows`. Blocks until a process is free and has decoded them.

        Raises:
          ValueError: they cannot be decoded.
          DecoderLost: the process has ended.
        """
        process, pipe = one = self._idle.get()
        try:
            pipe.send((split, rows))
            good, found = pipe.recv()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDING_SECONDS)
            raise DecoderLost(
                f"a decoding process (pid {process.pid}) has ended with {process.poll()}: there may be too little "
                f"memory for data.workers={len(self._all)}"
            ) from None
        finally:
            self._idle.put(one)
        if not good:
            raise ValueError(found)
        return found

    def close(self) -> None:
        """Ends the processes; blocks until they have decoded what they are at. Idempotent."""
        for _, pipe in self._all:
            pipe.close()
        for process, _ in self._all:
            process.wait()
        self._all = []


@contextlib.contextmanager
def decoders(folder: str, count: int) -> Iterator[Decoders | None]:
    """`Decoders` while open; None for none."""
    if not count:
        yield None
        return
    made = Decoders(folder, count)
    try:
        yield made
    finally:
        made.close()


def serve() -> None:
    """A decoding process: (split, rows) comes, (True, arrays) or (False, what was raised) goes, until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # for the process that trains: it may have batches to save
        signal.signal(number, signal.SIG_IGN)
    folder, pipe = sys.argv[2], Connection(int(sys.argv[3]))
    sources: dict[str, Any] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            split, rows = pipe.recv()
            try:
                sources = sources or open_splits(folder)
                answer: tuple[bool, Any] = True, sources[split].decode(rows)
            except Exception as e:
                answer = False, f"{type(e).__name__}: {e}"
            pipe.send(answer)
    os._exit(0)
