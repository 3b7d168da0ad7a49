"""Atomic checkpoints of the canonical state by Orbax, with checksums of our own.

    checkpoints/
      120.tmp-4711/              being written; never read
      120.before/                the former 120, while a new one takes its name
      120/
        part-0/, part-1/, ...    Orbax; each at most PART_BYTES of leaves
        progress.json            data position, sums of the running epoch, early stopping, elapsed time
        MANIFEST.json            SHA-256 of every file above and the part of every leaf; written last, verified first

Orbax restores a file with a flipped bit into wrong numbers without a word, hence the manifest. Process 0 alone writes
and reads; the others fetch restored leaves from it, so no shared file system is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from jaxdist.errors import UsageError
from jaxdist.state import LazyArray, TrainState, flatten, state_of, unflatten
from jaxdist.state.train_state import stored_arrays

PART_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Restored:
    """A verified checkpoint: its state (leaves are read when asked for) and what was stored beside it."""

    state: TrainState
    progress: dict[str, Any]
    leaves: dict[str, LazyArray]


class Checkpointer:
    """The checkpoints of one run directory; used by the chief alone.

    Args:
      keep: how many of the newest to keep.
      before_commit: called before a finished checkpoint gets its name (faults are injected here in tests).
    """

    def __init__(self, workdir: str, *, keep: int, before_commit: Callable[[], None] = lambda: None) -> None:
        self._folder = pathlib.Path(workdir).resolve() / "checkpoints"
        self._keep = keep
        self._before_commit = before_commit
        self._orbax = _orbax()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def save(self, state: TrainState, progress: dict[str, Any], done: Callable[[], None] = lambda: None) -> None:
        """Writes a checkpoint in the background; blocks only while an earlier one is still being written.

        `state` must be safe from later steps (`Strategy.export_state` sees to it). `done` is called from the writing
        thread once the checkpoint has its name.

        Raises:
          OSError: the previous checkpoint could not be written.
        """
        self.wait()
        self._pending = self._writer.submit(self._write, state, progress, done)

    def wait(self) -> None:
        """Blocks until what was saved is on disk; raises what went wrong there."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        self.wait()
        self._writer.shutdown()

    def _write(self, state: TrainState, progress: dict[str, Any], done: Callable[[], None]) -> None:
        target = self._folder / str(state.updates)
        part_of: dict[str, int] = {}
        parts: list[dict[str, Any]] = []
        size = PART_BYTES
        for name, leaf in stored_arrays(state).items():
            if size + leaf.nbytes > PART_BYTES:
                parts.append({})
                size = 0
            parts[-1][name] = leaf
            part_of[name] = len(parts) - 1
            size += leaf.nbytes
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob("*.tmp-*"):
            shutil.rmtree(left, ignore_errors=True)
        building = self._folder / f"{state.updates}.tmp-{os.getpid()}"
        for number, part in enumerate(parts):
            arrays = {name: np.asarray(leaf) for name, leaf in part.items()}  # may come from other processes
            self._orbax.save(building / f"part-{number}", unflatten(arrays))
        counts = {"updates": state.updates, "examples_seen": state.examples_seen, "pending": state.pending}
        (building / "progress.json").write_text(json.dumps(counts | progress))
        manifest = {
            "leaves": {
                n: [part_of[n], str(leaf.dtype), list(leaf.shape)] for part in parts for n, leaf in part.items()
            },
            "files": {str(p.relative_to(building)): _digest(p) for p in sorted(building.rglob("*")) if p.is_file()},
        }
        _write_durably(building / "MANIFEST.json", json.dumps(manifest))
        self._before_commit()
        before = target.with_suffix(".before")
        if target.exists():  # the same update saved again, after a resume or at a phase boundary
            self._put_back()
            os.replace(target, before)
        os.replace(building, target)
        _sync_folder(self._folder)
        shutil.rmtree(before, ignore_errors=True)
        # Numbers above this one are damaged checkpoints that the run went back past; they must not count as kept.
        numbers = self._numbers()
        kept = [n for n in numbers if n <= state.updates][-self._keep :]
        for old in set(numbers) - set(kept):
            shutil.rmtree(self._folder / str(old), ignore_errors=True)
        done()

    def _put_back(self) -> None:
        """Checkpoints that lost their name to new ones that never came get it back."""
        for before in self._folder.glob("*.before"):
            if before.with_suffix("").exists():
                shutil.rmtree(before)
            else:
                os.replace(before, before.with_suffix(""))

    def _numbers(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdigit())

    def restore(self) -> Restored | None:
        """The newest checkpoint that is whole; None where there is none at all.

        Raises:
          UsageError: there are checkpoints, and all of them are damaged.
        """
        self._put_back()
        for left in sorted(self._folder.glob("*.tmp-*")):
            logging.warning("%s was not finished when its run ended; going back to the one before it.", left)
        numbers = self._numbers()
        for number in reversed(numbers):
            folder = self._folder / str(number)
            problem = _verify(folder)
            if problem is None:
                return self._read(folder)
            logging.warning("The checkpoint %s is damaged (%s); going back to the one before it.", folder, problem)
        if numbers:
            raise UsageError(
                f"All {len(numbers)} checkpoints in {self._folder} are damaged (see the warnings): restore them from a "
                "copy, or choose another --workdir to start anew."
            )
        return None

    def _read(self, folder: pathlib.Path) -> Restored:
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        progress = json.loads((folder / "progress.json").read_text())
        loaded: dict[int, dict[str, np.ndarray]] = {}  # the one part that is in memory
        lock = threading.Lock()  # the chief reads its own leaves while it serves them to the others

        def part(number: int) -> dict[str, np.ndarray]:
            with lock:
                if number not in loaded:
                    loaded.clear()
                    loaded[number] = flatten(self._orbax.restore(folder / f"part-{number}"))
                return loaded[number]

        def leaf(name: str, number: int, dtype: str, shape: list[int]) -> LazyArray:
            return LazyArray(tuple(shape), np.dtype(dtype), lambda: part(number)[name])

        leaves = {name: leaf(name, *what) for name, what in manifest["leaves"].items()}
        return Restored(state_of(leaves, progress), progress, leaves)


def _orbax() -> ocp.Checkpointer:
    # The chief alone writes: without this Orbax waits for the others.
    options = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxdist"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _verify(folder: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = json.loads((folder / "MANIFEST.json").read_text())["files"]
        for name, digest in files.items():
            if _digest(folder / name) != digest:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError) as e:
        return f"{type(e).__name__}: {e}"
    return None


def _write_durably(path: pathlib.Path, text: str) -> None:
    """Writes a file, after everything else in its folder has reached the disk."""
    for other in path.parent.rglob("*"):
        if other.is_file():
            with open(other, "rb") as f:
                os.fsync(f.fileno())
    with open(path, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    _sync_folder(path.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
