"""The runs that dashboard.py shows: which there are, and the answers to its page."""

from __future__ import annotations

import collections
import pathlib
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dashboard_feed import RunFeed

_DEPTH = 3  # folders below a given one in which runs are looked for: DIR/COMPARISON/NAME/seedN
_DAMAGED = (OSError, LookupError, TypeError, ValueError, AttributeError)  # rows that are not as a run writes them
_SECONDS = 1.0  # spent on reading for one answer; what is left over comes with the next


def is_run(folder: pathlib.Path) -> bool:
    return (folder / "metrics.jsonl").is_file() or (folder / "config.json").is_file()


def find_runs(folders: Iterable[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Run directories, with a name that tells each from the others; a folder is a run, or has runs in it."""
    found: set[pathlib.Path] = set()

    def look(folder: pathlib.Path, depth: int) -> None:
        if is_run(folder):
            found.add(folder.resolve())
        elif depth:
            for inner in _folders_in(folder):
                look(inner, depth - 1)

    for folder in folders:
        look(folder, _DEPTH)
    return _names(sorted(found))


def _names(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """The ends of the paths: 'y', 'allreduce/seed0'; more where others end so, equally for all seeds of a folder."""
    seeded = {path: bool(re.fullmatch(r"seed[-_]?\d+", path.name)) for path in paths}
    tops = {path: path.parent if seeded[path] else path for path in paths}
    length = dict.fromkeys(tops.values(), 1)
    while True:
        ends = {top: "/".join(top.parts[-length[top] :]).replace("//", "/") for top in length}
        counts = collections.Counter(ends.values())
        short = [top for top, end in ends.items() if counts[end] > 1 and length[top] < len(top.parts)]
        if not short:
            return {path: ends[top] + (f"/{path.name}" if seeded[path] else "") for path, top in tops.items()}
        for top in short:
            length[top] += 1


def _folders_in(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return [inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith(".")]
    except OSError:  # it is gone, or nobody may look
        return []


class Runs:
    """All runs in some folders, as JSON. May be asked by several threads."""

    def __init__(self, folders: Sequence[pathlib.Path], seconds: float = _SECONDS) -> None:
        self._folders, self._seconds = folders, seconds
        self._feeds: dict[pathlib.Path, RunFeed] = {}
        self._lock = threading.Lock()

    def answer(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """What every run is at, and the new rows of some. At least one run is read, however long it is.

        Args:
          wanted: run's id -> the cursor of the answer before; '': everything.

        Returns:
          `runs`: one head each, with `error` where the run's rows are damaged; `rows`: by id; `unread`: how many runs
          were left for the next answer.
        """
        with self._lock:
            end = time.monotonic() + self._seconds
            names = find_runs(self._folders)
            self._feeds = {path: self._feeds.get(path) or RunFeed(path) for path in names}
            heads: dict[pathlib.Path, dict[str, Any]] = {}
            rows: dict[str, dict[str, Any]] = {}
            unread = 0
            for path, feed in self._feeds.items():
                try:
                    feed.look()
                    if feed.is_read or time.monotonic() < end:
                        heads[path] = feed.head()
                    else:
                        heads[path], unread = feed.known_head(), unread + 1
                except _DAMAGED as e:  # one run's; the others are shown
                    heads[path] = _damaged(feed, e)
            for path, feed in self._feeds.items():
                if feed.id not in wanted:
                    continue
                if feed.has_rows or time.monotonic() < end or not rows:
                    try:
                        new = feed.after(wanted[feed.id])
                    except _DAMAGED as e:
                        heads[path] = _damaged(feed, e)
                        continue
                    heads[path] = feed.known_head()
                    if new is not None:
                        rows[feed.id] = new
                else:
                    unread += 1
        return {"runs": [head | {"name": names[path]} for path, head in heads.items()], "rows": rows, "unread": unread}


def _damaged(feed: RunFeed, error: Exception) -> dict[str, Any]:
    return feed.known_head() | {"error": f"Its rows cannot be shown: {type(error).__name__}: {error}."}
