"""A run directory that is still being written: what `watch` shows, read again and again at little cost.

Files that only grow (`metrics.jsonl`, `system/`, `logs/`) are read from where the last look ended.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import re
import socket
import time

import psutil
from growing_files import GrowingFiles, Row, parsed

_EVENTS = 50
_OF_A_RUN = ("metrics.jsonl", "config.json", "logs", "system")
_STARTED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ INFO jaxdist process \S+, pid (\d+)(?:, host (\S+))?")
_ENDED = re.compile(r"jaxdist: (done|stopped|error): (.*)")


@dataclasses.dataclass
class Process:
    """One process of the run, by what it has written.

    Attributes:
      sample: the newest of `system/` that covers a good part of its interval.
      pid, host, started: of its last start: unix time, 0 where it has no log; host '' where the log does not say it.
      newest_row: when the run's newest row was written, unix time; 0 where it has none.
      ended: (done | stopped | error, its words), once it has said its last line.
    """

    name: str
    sample: Row | None = None
    pid: int = 0
    host: str = ""
    started: float = 0.0
    newest_row: float = 0.0
    ended: tuple[str, str] | None = None

    def state(self, now: float) -> str:
        """'starting', 'running', 'silent 35 s', 'killed', 'done', 'stopped' or 'error'; 'unknown' for a process of
        another host that has no samples."""
        if self.ended is not None:
            return self.ended[0]
        host = self.host if self.sample is None else self.sample["host"]
        here = host == socket.gethostname()  # elsewhere the number says nothing
        if self.pid and here and not _is_alive(self.pid, self.started):
            return "killed"
        if self.sample is None:
            if self.newest_row <= self.started:
                return "starting"
            return "running" if self.pid and here else "unknown"
        age = now - self.sample["unix_time"]
        return f"silent {age:.0f} s" if age > max(10.0, 4 * self.sample["seconds"]) else "running"


def _is_alive(pid: int, started: float) -> bool:
    """Whether that process, and no later one with its number, is there."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < started + 2.0
    except psutil.Error:
        return False


class FollowedRun:
    """A run as it is at the last `look`.

    Attributes:
      config: flat; {} until the run has written it.
      train, evaluation: the newest rows; where the newest has no number for a key, an earlier one's stands.
      events: the newest of them, without `clock`.
      phase: 'phase 2 of 3: allreduce'; the strategy alone where there is one phase.
      summary: once the run has ended well, since its last start.

    Raises:
      ValueError: the folder is no run directory; one sentence.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder.")
        if not any((folder / name).exists() for name in _OF_A_RUN):
            raise ValueError(f"{folder} is no run directory (it has none of {', '.join(_OF_A_RUN)}).")
        self.folder = folder
        self.config: Row = {}
        self.train: Row = {}
        self.evaluation: Row = {}
        self.events: collections.deque[Row] = collections.deque(maxlen=_EVENTS)
        self.processes: dict[str, Process] = {}
        self.summary: Row | None = None
        self._phase: Row = {}
        self._epoch_examples = 0.0
        self._begun = 0.0
        self._zero = 0.0
        self._newest_row = 0.0
        self._files = GrowingFiles()

    def look(self) -> None:
        """Reads what is new."""
        if not self.config:
            self.config = _json(self.folder / "config.json")
        for row in parsed(self._new_lines(self.folder / "metrics.jsonl")):
            self._take(row)
        for path in sorted(self.folder.glob("logs/*.log")):
            self._read_log(path)
        for path in sorted(self.folder.glob("system/*.jsonl")):
            process = self.processes.setdefault(path.stem, Process(path.stem))
            for sample in parsed(self._new_lines(path)):
                short = process.sample is not None and sample["seconds"] < 0.5 * process.sample["seconds"]
                process.sample = process.sample if short else sample
        for process in self.processes.values():
            process.newest_row = self._newest_row
        path = self.folder / "summary.json"
        if self.summary is None and path.exists() and path.stat().st_mtime >= self._begun:
            self.summary = _json(path) or None

    def _new_lines(self, path: pathlib.Path) -> list[str]:
        try:
            return self._files.new_lines(path)
        except OSError:  # a file that cannot be read does not end the view of the others
            return []

    def _take(self, row: Row) -> None:
        if row.get("epoch"):
            self._epoch_examples = row["examples_seen"] / row["epoch"]
        if row["kind"] in ("train", "eval") and self._zero:
            self._newest_row = self._zero + row["time"]
        if row["kind"] == "train":
            self.train |= {key: value for key, value in row.items() if value is not None}
        elif row["kind"] == "eval":
            self.evaluation = row
        elif row["event"] == "clock":  # another start
            self._zero = row["unix_time_of_0"]
            self._begun, self.summary = self._zero + row["time"], None
            self.config = _json(self.folder / "config.json")
        else:
            self.events.append(row)
            if row["event"] in ("phase", "switched"):
                self._phase = row

    def _read_log(self, path: pathlib.Path) -> None:
        process = self.processes.setdefault(path.stem, Process(path.stem))
        for line in self._new_lines(path):
            if found := _STARTED.match(line):
                process.pid, process.host = int(found[2]), found[3] or ""
                process.ended, process.sample = None, None
                process.started = time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S"))
            elif found := _ENDED.search(line):
                process.ended = found[1], found[2]

    @property
    def phase(self) -> str:
        strategy = str(self.config.get("strategy.name", ""))
        if not self._phase:
            return strategy
        number, name = self._phase["phase"], self._phase.get("strategy", self._phase.get("to"))
        count = len(_parts(str(self.config.get("strategy.schedule", ""))))
        return f"phase {number}{f' of {count}' if count >= number else ''}: {name}"

    def examples(self) -> tuple[int, int]:
        """(seen, in all); in all is 0 while it is not known: no row says yet how many an epoch has."""
        seen = max((row.get("examples_seen", 0) for row in (self.train, self.evaluation, *self.events)), default=0)
        batch = self.config.get("global_batch_size", 0)
        if not self._epoch_examples or not batch:
            return seen, 0
        updates = int(self.config["num_epochs"] * round(self._epoch_examples) // batch)
        most = self.config.get("max_updates") or updates
        return seen, min(updates, most) * batch

    def state(self, now: float) -> str:
        """'running' while any process is; else 'finished', 'error', 'killed', 'stopped', or 'silent' where other hosts'
        processes write nothing any more, and 'unknown' where they have no samples."""
        states = {process.state(now) for process in self.processes.values()}
        if states & {"running", "starting"}:
            return "running"
        if self.summary is not None or states == {"done"}:
            return "finished"
        return next((state for state in ("error", "killed", "stopped", "unknown") if state in states), "silent")

    def is_over(self, now: float) -> bool:
        """Nothing more is to come, as far as can be seen from this host."""
        return self.state(now) not in ("running", "silent", "unknown")


def _json(path: pathlib.Path) -> Row:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _parts(schedule: str) -> list[str]:
    """The phases of a schedule: commas inside brackets are of their options."""
    return [part for part in re.split(r",(?![^(]*\))", schedule) if part.strip()]
