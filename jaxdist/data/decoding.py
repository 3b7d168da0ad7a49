"""Processes that decode examples of a prepared folder, beside the one that trains.

Decoding a small PNG is Python code for the most part and holds the interpreter's lock: threads of one process decode no
faster than one of them (measured: experiments/results/input.md). Each process here is an interpreter of its own, which
imports neither JAX nor the user's program, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from jaxdist.data.tfds_source import Chosen, open_splits

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from jaxdist.data import decoding; decoding.serve()"


class DecoderLost(Exception):
    """A decoding process has ended by itself, or could not be started."""


class Decoders:
    """So many processes, each decoding one request at a time; used by any number of threads.

    Args:
      folder: of one version of a data set.
      chosen: what is decoded of each example.
      count: processes, started with the first request; 0: whoever asks decodes.
    """

    def __init__(self, folder: str, chosen: Chosen, count: int) -> None:
        self._folder, self._chosen, self._count = folder, chosen, count
        self.splits = open_splits(folder, chosen)
        self._starting = threading.Lock()
        self._all: list[_Process] = []
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def decode(self, split: str, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """({input: array [n, ...]}, targets [n, ...]) of `rows`. Blocks until a process is free and has decoded them.

        Raises:
          ValueError: they cannot be decoded. (Without processes TFDS's own kinds of error.)
          DecoderLost: the process has ended, or could not be started.
        """
        if not self._count:
            return self.splits[split].decode(rows)
        with self._starting:
            if not self._all:
                self._all = self._started()
                for process in self._all:
                    self._idle.put(process)
        process = self._idle.get()
        try:
            good, found = process.ask(split, rows)
        except (EOFError, OSError):
            raise DecoderLost(
                f"a decoding process (pid {process.pid}) has ended with {process.ended()}: there may be too little "
                f"memory for data.workers={self._count}"
            ) from None
        finally:
            self._idle.put(process)
        if not good:
            raise ValueError(found)
        return found

    def close(self) -> None:
        """Ends the processes; blocks until they have decoded what they are at. Idempotent."""
        _end(self._all)

    def _started(self) -> list[_Process]:
        """All of them, or none."""
        processes: list[_Process] = []
        try:
            for _ in range(self._count):
                processes.append(_Process(self._folder, self._chosen))
        except BaseException as e:
            _end(processes)
            if not isinstance(e, OSError):
                raise
            raise DecoderLost(
                f"decoding process {len(processes) + 1} of data.workers={self._count} could not be started: {e}. "
                "Fewer of them need less memory and fewer open files"
            ) from e
        return processes


class _Process:
    """One, and this end of the pipe to it."""

    def __init__(self, folder: str, chosen: Chosen) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), folder, str(theirs.fileno()), json.dumps(chosen)]
        try:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid

    def ask(self, split: str, rows: np.ndarray) -> tuple[bool, Any]:
        """Its answer (`serve`). Blocks."""
        self.pipe.send((split, rows))
        return self.pipe.recv()

    def ended(self) -> int:
        """Its exit code; blocks until it has one. It ends with its pipe."""
        return self._process.wait()


def _end(processes: list[_Process]) -> None:
    for process in processes:
        process.pipe.close()
    for process in processes:
        process.ended()


def serve() -> None:
    """A decoding process: (split, rows) comes, (True, arrays) or (False, what was raised) goes, until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # for the process that trains: it may have batches to save
        signal.signal(number, signal.SIG_IGN)
    folder, pipe = sys.argv[2], Connection(int(sys.argv[3]))
    features, target = json.loads(sys.argv[4])
    chosen = Chosen(tuple(features), target)
    sources: dict[str, Any] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            split, rows = pipe.recv()
            try:
                sources = sources or open_splits(folder, chosen)
                answer: tuple[bool, Any] = True, sources[split].decode(rows)
            except MemoryError:  # the examples are not to blame: this process ends
                raise
            except Exception as e:
                answer = False, f"{type(e).__name__}: {e}"
            pipe.send(answer)
    os._exit(0)
