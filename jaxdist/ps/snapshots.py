"""A server's snapshots on its own disk: from them a restarted server goes on.

    servers/0/
      120.npz        this shard at version 120 (a damaged file is noticed: its CRCs are checked when it is read)
      run.json       server 0 alone: the run, its incarnation, and what server 0 knew at a version that every shard has

A file gets its name when it is whole and on disk.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


class Snapshots:
    """The snapshots in one folder."""

    def __init__(self, folder: str | pathlib.Path) -> None:
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, run: str, version: int, vectors: Mapping[str, np.ndarray], keep: int) -> None:
        """Writes a shard; of the others keeps version `keep`. Blocks until it is on disk.

        Raises:
          OSError: it cannot be written.
        """
        part = self.folder / f"{version}.npz.part"
        with open(part, "wb") as f:
            stored: dict[str, Any] = {name.replace("/", "|"): v for name, v in vectors.items()}
            np.savez(f, run=np.array(run), **stored)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, self.folder / f"{version}.npz")
        self.drop([v for v in self.versions() if v not in (version, keep)])

    def drop(self, versions: Iterable[int]) -> None:
        """Deletes versions; those that are not there are passed over."""
        for version in versions:
            (self.folder / f"{version}.npz").unlink(missing_ok=True)

    def versions(self) -> list[int]:
        """Those on disk, in order."""
        return sorted(int(p.stem) for p in self.folder.glob("*.npz") if p.stem.isdigit())

    def load(self, run: str, version: int) -> dict[str, np.ndarray]:
        """A shard as it was saved.

        Raises:
          ValueError: missing, damaged, or of another run.
        """
        path = self.folder / f"{version}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                vectors = {name.replace("|", "/"): stored[name] for name in stored.files}
        except Exception as e:
            raise ValueError(f"the snapshot {path} cannot be read: {type(e).__name__}: {e}") from e
        found = str(vectors.pop("run"))
        if found != run:
            raise ValueError(f"the snapshot {path} is of the run {found}, not of {run}")
        return vectors

    def save_run(self, record: Mapping[str, Any]) -> None:
        """Writes what server 0 goes on from (JSON), in place of what was there. Blocks until it is on disk."""
        part = self.folder / "run.json.part"
        with open(part, "w") as f:
            json.dump(record, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, self.folder / "run.json")

    def load_run(self) -> dict[str, Any] | None:
        """What `save_run` has written; None where there is nothing that can be read."""
        try:
            return json.loads((self.folder / "run.json").read_text())
        except (OSError, ValueError):
            return None

    def clear(self) -> None:
        """Forgets everything: the run is over, or another one begins."""
        (self.folder / "run.json").unlink(missing_ok=True)
        self.drop(self.versions())
