"""Atomic checkpoints of the canonical state by Orbax, with checksums of our own.

    checkpoints/
      120.tmp-4711/              being written; never read
      120.before/                the former 120, while a new one takes its name
      120/
        part-0/, part-1/, ...    Orbax; each at most PART_BYTES of leaves
        progress.json            data position, sums of the running epoch, early stopping, elapsed time
        MANIFEST.json            SHA-256 of every file; part, dtype, shape and checksum of every leaf; written last

Orbax restores a file with a flipped bit into wrong numbers without a word, hence the manifest. A checkpoint gets its
name when every leaf has been read back from the files and is what was to be saved; it is restored if that is still so.
Process 0 alone writes and reads; the others fetch restored leaves from it, so no shared file system is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import xxhash

from jaxdist.errors import NotSaved, PeerError, Unhealthy, UsageError
from jaxdist.state import LazyArray, TrainState, flatten, state_of, unflatten
from jaxdist.state.train_state import stored_arrays

PART_BYTES = 64 * 2**20
_WRITER = "checkpoint"  # the thread that writes
_WHOLE, _UNFINISHED, _BEFORE = "0|[1-9][0-9]*", r"[0-9]+\.tmp-[0-9]+", r"[0-9]+\.before"  # names in checkpoints/


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
      look_at: called with every array's path and value before it is written; what it raises, `save` or `wait` raises.
      before_commit: called before a finished checkpoint gets its name (faults are injected here in tests).
      note_seconds: called with the seconds that writing took, and with those that `save` or `wait` blocked for it, less
        than 0: what is left is what was hidden. Called from any thread.
    """

    def __init__(
        self,
        workdir: str,
        *,
        keep: int,
        look_at: Callable[[str, np.ndarray], None] = lambda name, array: None,
        before_commit: Callable[[], None] = lambda: None,
        note_seconds: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._folder = pathlib.Path(workdir).resolve() / "checkpoints"
        self._keep = keep
        self._look_at, self._before_commit, self._note_seconds = look_at, before_commit, note_seconds
        self._orbax = _orbax()
        self._writer = ThreadPoolExecutor(1, _WRITER)
        self._pending: Future[None] | None = None

    def save(self, state: TrainState, progress: dict[str, Any], done: Callable[[], None] = lambda: None) -> None:
        """Writes a checkpoint in the background; blocks only while an earlier one is still being written.

        `state` must be safe from later steps (`Strategy.export_state` sees to it). `done` is called from the writing
        thread once the checkpoint has its name.

        Raises:
          NotSaved: the previous checkpoint could not be written.
        """
        self.wait()
        self._pending = self._writer.submit(self._write_or_say_why, state, progress, done)

    def wait(self) -> None:
        """Blocks until what was saved is on disk; raises what went wrong there."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            begin = time.monotonic()
            try:
                pending.result()
            finally:
                self._note_seconds(begin - time.monotonic())

    def close(self) -> None:
        self.wait()
        self._writer.shutdown()

    def _write_or_say_why(self, *what: Any) -> None:
        begin = time.monotonic()
        try:
            self._write(*what)
        except (Unhealthy, PeerError, NotSaved):  # its leaves may come from other processes
            raise
        except Exception as e:  # what Orbax raises for a full disk is of several kinds
            words = " ".join((str(e) if isinstance(e, OSError) else f"{type(e).__name__}: {e}").split())[:300]
            newest = self.newest()
            then = f"start again, the run goes on from {newest}" if newest else "there is no earlier one"
            raise NotSaved(
                f"The checkpoint of update {what[0].updates} could not be written to {self._folder} ({words}): see to "
                f"the disk; {then}."
            ) from e
        finally:
            self._note_seconds(time.monotonic() - begin)

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
        for left in self._named(_UNFINISHED):
            shutil.rmtree(left, ignore_errors=True)
        building = self._folder / f"{state.updates}.tmp-{os.getpid()}"
        building.mkdir()
        checksums: dict[str, str] = {}
        for number, part in enumerate(parts):
            arrays = {name: np.asarray(leaf) for name, leaf in part.items()}  # may come from other processes
            for name, array in arrays.items():
                self._look_at(name, array)
            with _plainly_named(building / f"part-{number}") as place:
                self._orbax.save(place, unflatten(arrays))
            wanted = {name: _checksum(array) for name, array in arrays.items()}
            found = {name: _checksum(array) for name, array in self._read_part(building, number).items()}
            if found != wanted:
                lost = sorted(name for name in wanted if found.get(name) != wanted[name])
                raise OSError(
                    f"The checkpoint of update {state.updates} cannot be read back from {building}: {len(lost)} of "
                    f"{len(wanted)} arrays differ, {', '.join(lost[:3])} among them."
                )
            checksums |= wanted
        counts = {"updates": state.updates, "examples_seen": state.examples_seen, "pending": state.pending}
        (building / "progress.json").write_text(json.dumps(counts | progress))
        manifest = {
            "leaves": {
                n: [part_of[n], str(leaf.dtype), list(leaf.shape), checksums[n]]
                for part in parts
                for n, leaf in part.items()
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
        for before in self._named(_BEFORE):
            if before.with_suffix("").exists():
                shutil.rmtree(before)
            else:
                os.replace(before, before.with_suffix(""))

    def _named(self, pattern: str) -> list[pathlib.Path]:
        """The folders of ours with such names; what somebody else has put beside them is left alone."""
        if not self._folder.is_dir():
            return []
        return sorted(p for p in self._folder.iterdir() if re.fullmatch(pattern, p.name) and p.is_dir())

    def newest(self) -> str:
        """The path of the newest checkpoint, '' where there is none; blocks while one is being written."""
        if self._pending is not None and threading.current_thread().name != f"{_WRITER}_0":
            self._pending.exception()  # what went wrong there is for `wait` to say
        numbers = self._numbers()
        return str(self._folder / str(numbers[-1])) if numbers else ""

    def _numbers(self) -> list[int]:
        return sorted(int(p.name) for p in self._named(_WHOLE))

    def _read_part(self, folder: pathlib.Path, number: int) -> dict[str, np.ndarray]:
        with _plainly_named(folder / f"part-{number}") as place:
            return {name: np.asarray(leaf) for name, leaf in flatten(self._orbax.restore(place)).items()}

    def _verify(self, folder: pathlib.Path) -> str | None:
        """What is wrong with a checkpoint, or None. Reads all of it."""
        try:
            manifest = json.loads((folder / "MANIFEST.json").read_text())
            for name, digest in manifest["files"].items():
                if _digest(folder / name) != digest:
                    return f"{name} has changed since it was written"
            updates = json.loads((folder / "progress.json").read_text())["updates"]
            if str(updates) != folder.name:
                return f"it is of update {updates}"
            leaves = manifest["leaves"]
            for number in sorted({what[0] for what in leaves.values()}):
                # Checkpoints of before 2026-11-27 have no checksums of leaves, and were not read back.
                wanted = {name: what[3:] for name, what in leaves.items() if what[0] == number}
                for name, leaf in self._read_part(folder, number).items():
                    if wanted.pop(name, [""]) not in ([], [_checksum(leaf)]):
                        return f"{name} is not what was saved"
                if wanted:
                    return f"{min(wanted)} is missing"
        except Exception as e:  # what Orbax and JSON raise for damaged files is of many kinds
            return f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
        return None

    def look(self) -> int | None:
        """The update of the newest checkpoint that is whole; None where there is none. Changes nothing on disk."""
        return next((n for n in reversed(self._numbers()) if self._verify(self._folder / str(n)) is None), None)

    def restore(self) -> Restored | None:
        """The newest checkpoint that is whole; None where there is none at all.

        Raises:
          UsageError: there are checkpoints, and all of them are damaged.
        """
        self._put_back()
        for left in self._named(_UNFINISHED):
            logging.warning("%s was not finished when its run ended; going back to the one before it.", left)
        numbers = self._numbers()
        for number in reversed(numbers):
            folder = self._folder / str(number)
            problem = self._verify(folder)
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
                    loaded[number] = self._read_part(folder, number)
                return loaded[number]

        def leaf(name: str, number: int, dtype: str, shape: list[int], _: str = "") -> LazyArray:
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


def _checksum(array: np.ndarray) -> str:
    """Of dtype, shape and bytes."""
    digest = xxhash.xxh3_128(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextlib.contextmanager
def _plainly_named(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The same folder under a path without special characters: Orbax takes '[', for one, for a pattern."""
    if re.fullmatch(r"[A-Za-z0-9_./-]+", str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxdist-") as plain:
        alias = pathlib.Path(plain) / "checkpoint"
        alias.symlink_to(path.parent, target_is_directory=True)
        yield alias / path.name


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
