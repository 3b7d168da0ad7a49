"""One run as the page of dashboard.py follows it: its state, and the rows that a page does not have yet."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from dashboard_panels import EVAL_KEYS, TRAIN_KEYS
from growing_files import GrowingFiles, Row
from run_reader import Run, cluster_columns, read_run

MOST_POINTS = 600  # of a line, when a run is sent as a whole
FRESH_SECONDS = 20.0  # a run whose files changed so lately is going on
_RESENT_CELLS = 4  # the last cells of the samples may still change
_MARKS = {
    "switched": "switch",
    "saved": "saved",
    **dict.fromkeys(("phase", "switch_decided"), "quiet"),  # of a switch, which has its own; in the table alone
    **dict.fromkeys(("worker_lost", "not_finite", "servers_rolled_back", "updates_lost"), "trouble"),
}


class RunFeed:
    """Reads what is new in a run, and hands it out.

    A cursor says how many rows of each kind a page has, and of which reading: after a resume, or where rows came late,
    everything is sent again. Samples are read once somebody asks for rows; rows stay in memory for runs that go on.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.id = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        self._folder = folder
        self._files = GrowingFiles()
        self._now: dict[str, tuple[int, int]] = {}  # signature of the files as `look` found them
        self._seen: Any = None  # and of those that the head is of
        self._taken: Any = None  # and of those that the rows are of
        self._state = ""
        self._head: dict[str, Any] = {}
        self._followed = False  # somebody has asked for rows
        self._run: Run | None = None
        self._whole: dict[str, Any] | None = None
        self._cursor = ""
        self._ends: dict[str, tuple[int, int]] = {}  # of train and eval rows: how many there were, and the last update
        self._late = 0  # how often rows have come before those ends

    def look(self) -> None:
        """Looks at the files' sizes and times, without reading them."""
        self._now = self._signature()
        self._state = self._state_of(self._now)
        if self._state != "running" and self._run is not None:
            self._keep_whole(self._run)

    @property
    def is_read(self) -> bool:
        """Whether `head` has nothing to read."""
        return self._now == self._seen

    def head(self) -> dict[str, Any]:
        """The run in one line of the list: its state, and its newest numbers."""
        if not self.is_read:
            self._read()
        return self.known_head()

    def known_head(self) -> dict[str, Any]:
        """The same, as far as it has been read."""
        silent = max(time.time() - _newest(self._now), 0.0)
        return {"id": self.id, "state": self._state, "silent_seconds": round(silent)} | self._head

    @property
    def has_rows(self) -> bool:
        """Whether `after` has nothing to read."""
        return self._now == self._taken

    def after(self, cursor: str) -> dict[str, Any] | None:
        """Rows after a cursor; None: there are none."""
        self._followed = True
        if not self.has_rows:
            self._read()
        if cursor == self._cursor:
            return None
        return self._part(cursor, self._run) if self._run is not None else self._whole

    def _read(self) -> None:
        def rows_alone(path: pathlib.Path) -> list[Row]:
            return self._files.all_rows(path) if path.parent == self._folder else []

        self._seen = self._now
        try:
            run = read_run(self._folder, self._files.all_rows if self._followed else rows_alone)
            self._head = _head_of(run)
            if self._followed:
                self._cursor, self._run, self._whole = self._cursor_of(run), run, None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            self._files, self._run, self._whole, self._cursor = GrowingFiles(), None, None, ""
            self._head = {"error": f"It cannot be read: {type(e).__name__}: {e}."}
        if self._followed:
            self._taken = self._now
        if self._state != "running":
            self._files = GrowingFiles()
            if self._run is not None:
                self._keep_whole(self._run)

    def _keep_whole(self, run: Run) -> None:
        """It goes on no more: what a page gets is enough."""
        self._whole = self._part("", run)
        self._run, self._files = None, GrowingFiles()

    def _signature(self) -> dict[str, tuple[int, int]]:
        """Sizes and times (ns) of the files that `read_run` reads."""
        named = [self._folder / name for name in ("config.json", "summary.json", "metrics.jsonl")]
        found = {}
        for path in (*named, *sorted((self._folder / "system").glob("*.jsonl"))):
            with contextlib.suppress(OSError):  # it is not there
                stat = path.stat()
                found[path.name] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _state_of(self, signature: dict[str, tuple[int, int]]) -> str:
        newest = _newest(signature)
        if is_locked(self._folder / ".lock"):
            return "running"
        fresh = time.time() - newest < FRESH_SECONDS
        if "summary.json" in signature:
            resumed = newest - signature["summary.json"][1] / 1e9 > FRESH_SECONDS  # it went on after its end
            return "running" if resumed and fresh else "finished"
        return "running" if fresh else "stopped"

    def _cursor_of(self, run: Run) -> str:
        """`READING.TRAIN.EVAL.EVENTS.CELLS`; another reading where it is not enough to send what is new."""
        streams = {"train": run.train, "eval": run.evaluations}
        for name, (had, last) in self._ends.items():
            self._late += len(streams[name]) < had or streams[name][had - 1]["updates"] != last
        self._ends = {name: (len(rows), rows[-1]["updates"]) for name, rows in streams.items() if rows}
        starts = sum(event["event"] == "clock" for event in run.events)
        end = max((samples[-1]["time"] for samples in run.system.values() if samples), default=0.0)
        step = _step_of(run, end)
        reading = f"{starts}-{self._files.restarts}-{self._late}-{step:g}".replace(".", "_")
        counts = (len(run.train), len(run.evaluations), len(run.events), int(end / step))
        return ".".join(map(str, (reading, *counts)))

    def _part(self, cursor: str, run: Run) -> dict[str, Any]:
        """What is new after `cursor`, thinned."""
        now, had = self._cursor.split("."), cursor.split(".")
        whole = (
            len(had) != len(now) or had[0] != now[0] or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in had[1:])
        )
        train, evaluations, events, cell = (0, 0, 0, 0) if whole else map(int, had[1:])
        step = float(now[0].rsplit("-", 1)[1].replace("_", "."))
        system = cluster_columns(run, step, max(cell - _RESENT_CELLS, 0))
        if "host_sent_per_second" in system and "loopback_per_second" in system:
            both = zip(system["host_sent_per_second"], system["loopback_per_second"], strict=True)
            system["network"] = [None if a is None or b is None else a + b for a, b in both]
        return {
            "cursor": self._cursor,
            "replace": whole,
            "train": averaged(run.train[train:], ("time", "epoch", *TRAIN_KEYS)),
            "eval": averaged(run.evaluations[evaluations:], ("time", "epoch", *EVAL_KEYS)),
            "system": {key: [_short(v) for v in column] for key, column in system.items()},
            "events": _events(run.events[events:]),
        }


def _newest(signature: dict[str, tuple[int, int]]) -> float:
    """When a file was changed last, as a Unix time."""
    return max((t for _, t in signature.values()), default=0) / 1e9


def _step_of(run: Run, end: float) -> float:
    """Seconds of a cell of the samples: about their own distance, and no more than MOST_POINTS cells."""
    distances = [
        (samples[-1]["time"] - samples[0]["time"]) / (len(samples) - 1)
        for samples in run.system.values()
        if len(samples) > 1
    ]
    step = 2.0 ** round(math.log2(min(max(*distances, 0.25), 1e6))) if distances else 2.0
    while end / step > MOST_POINTS:
        step *= 2
    return step


def _head_of(run: Run) -> dict[str, Any]:
    rows = sorted(run.train[-1:] + run.evaluations[-1:], key=lambda row: row["updates"])
    newest = rows[-1] if rows else {}
    phases = [event["strategy"] for event in run.events if event["event"] == "phase"]
    return {
        "group": run.group,
        "strategy": phases[-1] if phases else run.config.get("strategy.name", ""),
        "model": run.config.get("model.name", ""),
        "data": run.config.get("data.name", ""),
        "epochs": run.config.get("num_epochs"),
        "epoch": newest.get("epoch"),
        "updates": newest.get("updates"),
        "time": newest.get("time"),
        "accuracy": run.evaluations[-1].get("accuracy") if run.evaluations else None,
        "images_per_second": run.train[-1].get("images_per_second") if run.train else None,
    }


def _events(events: Sequence[Row]) -> list[dict[str, Any]]:
    found = []
    for event in events:
        name = event["event"]
        if name == "clock":
            continue
        mark = _MARKS.get(name, "other")
        common = ("kind", "time", "event", "updates", "examples_seen", "epoch")
        more = ", ".join(f"{k} {_written(v)}" for k, v in event.items() if k not in common)
        found.append({"time": event["time"], "epoch": event.get("epoch"), "event": name, "mark": mark, "more": more})
    saves = [event for event in found if event["event"] == "saved"]
    dropped = {id(event) for event in saves[:-MOST_POINTS]}
    return [event for event in found if id(event) not in dropped]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def averaged(rows: Sequence[Row], keys: Iterable[str], most: int = MOST_POINTS) -> dict[str, list[float | None]]:
    """Columns of at most `most` points: each the mean of neighbouring rows, of `..._max` the highest."""
    count = min(len(rows), most)
    parts = [rows[k * len(rows) // count : (k + 1) * len(rows) // count] for k in range(count)]
    columns = {}
    for key in keys:
        column = []
        for part in parts:
            values = [v for row in part if isinstance(v := row.get(key), int | float) and math.isfinite(v)]
            highest = max if key.endswith("_max") else lambda found: sum(found) / len(found)
            column.append(_short(highest(values)) if values else None)
        if any(value is not None for value in column):
            columns[key] = column
    return columns


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def is_locked(path: pathlib.Path) -> bool:
    """Whether some process of this host holds the lock: read from the kernel's list, where there is one.

    To try the lock would be simpler, and could refuse the run that starts at that moment.
    """
    try:
        stat = path.stat()
        held = pathlib.Path("/proc/locks").read_text()
    except OSError:
        return False
    name = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    return any(name in line.split() for line in held.splitlines())
