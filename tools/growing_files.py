"""Files that others append to, such as a run's `metrics.jsonl`: each look reads what has been added since the last."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


class GrowingFiles:
    """Gives each whole line of each file once. A file that is not there has no lines.

    `restarts` counts the files that were begun anew (another file has the name, or it has become shorter), and were
    read again from their beginning.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self._ends: dict[pathlib.Path, int] = {}
        self._identities: dict[pathlib.Path, tuple[int, int]] = {}  # (device, inode)
        self._kept: dict[pathlib.Path, list[Row]] = {}

    def new_lines(self, path: pathlib.Path) -> list[str]:
        """Those since the last call.

        Raises:
          OSError: the file is there, and cannot be read.
        """
        offset = self._ends.get(path, 0)
        try:
            with open(path, "rb") as file:
                stat = os.fstat(file.fileno())
                identity = (stat.st_dev, stat.st_ino)
                same = self._identities.setdefault(path, identity) == identity
                self._identities[path] = identity
                if offset and (not same or file.seek(0, os.SEEK_END) < offset):  # it was begun anew
                    offset = 0
                    self.restarts += 1
                    self._kept.pop(path, None)
                file.seek(offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._ends[path] = offset + len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()

    def all_rows(self, path: pathlib.Path) -> list[Row]:
        """The JSON objects of all lines, also of earlier calls: they stay in memory. Raises as `new_lines`."""
        new = parsed(self.new_lines(path))  # first: it may forget what was kept
        kept = self._kept.setdefault(path, [])
        kept += new
        return kept


def parsed(lines: Iterable[str]) -> Iterable[Row]:
    """The JSON objects among lines; a line that a killed process has left unfinished is none."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
