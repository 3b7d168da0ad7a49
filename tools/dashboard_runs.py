"""Runs as the page of dashboard.py asks for them: which there are, and what is new in each."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from run_reader import GrowingLines, Row, Run, cluster_columns, read_run

MOST_POINTS = 600  # of a line, when a run is sent as a whole
FRESH_SECONDS = 20.0  # a run whose files changed so lately is going on
_RESENT_CELLS = 4  # the last cells of the samples may still change
_DEPTH = 3  # folders below a given one in which runs are looked for: DIR/COMPARISON/NAME/seedN
_MARKS = {
    "switched": "switch",
    "saved": "saved",
    **dict.fromkeys(("phase", "switch_decided"), "quiet"),  # of a switch, which has its own; in the table alone
    **dict.fromkeys(("worker_lost", "not_finite", "servers_rolled_back", "updates_lost"), "trouble"),
}


def _line(stream: str, key: str, scale: float = 1.0, look: str = "solid", label: str = "") -> dict[str, Any]:
    return {"stream": stream, "key": key, "scale": scale, "look": look, "label": label}


def _measure(label: str, *lines: dict[str, Any], log: bool = False) -> dict[str, Any]:
    return {"label": label, "lines": lines, "log": log}


def _both(key: str, scale: float = 1.0) -> tuple[dict[str, Any], ...]:
    return _line("eval", key, scale, "marked", "validation"), _line("train", key, scale, "thin", "training")


def _host(label: str, key: str, scale: float = 1.0) -> dict[str, Any]:
    return _measure(label, _line("system", key, scale))


# What the page draws, in its order; of the measures of a panel one is shown at a time, at first the first.
# `from_zero`: the axis begins there. Keys that a run does not have are left out, and so is an `optional` panel.
PANELS: tuple[dict[str, Any], ...] = (
    {"title": "accuracy", "unit": "%", "from_zero": False, "measures": [
        _measure("validation and training", *_both("accuracy", 100.0)),
        _measure("validation", _line("eval", "accuracy", 100.0, "marked")),
        _measure("training", _line("train", "accuracy", 100.0)),
        _measure("holdout", _line("eval", "holdout_accuracy", 100.0, "marked")),
    ]},
    {"title": "loss", "unit": "", "from_zero": False, "measures": [
        _measure("validation and training", *_both("loss")),
        _measure("validation and training, log", *_both("loss"), log=True),
        _measure("validation", _line("eval", "loss", 1.0, "marked")),
        _measure("training", _line("train", "loss")),
        _measure("holdout", _line("eval", "holdout_loss", 1.0, "marked")),
    ]},
    {"title": "throughput", "unit": "images/s", "from_zero": True, "measures": [
        _measure("images/s", _line("train", "images_per_second")),
        _measure("ms a step", _line("train", "step_ms")) | {"unit": "ms"},
        _measure("wait for data, ms a step", _line("train", "data_wait_ms")) | {"unit": "ms"},
        _measure("learning rate", _line("train", "learning_rate")) | {"unit": ""},
    ]},
    {"title": "staleness", "unit": "updates", "from_zero": True, "measures": [
        _measure("mean and highest", _line("train", "staleness_mean", 1.0, "solid", "mean"),
                 _line("train", "staleness_max", 1.0, "thin", "highest")),
        _measure("clock lead", _line("train", "clock_lead_max")) | {"unit": "steps"},
    ]},
    {"title": "CPU", "unit": "cores busy, all hosts", "from_zero": True, "measures": [
        _measure("busy, user, system, iowait", _line("system", "host_cpu", 1.0, "solid", "busy"),
                 _line("system", "host_cpu_user", 1.0, "dashed", "user"),
                 _line("system", "host_cpu_system", 1.0, "dotted", "system"),
                 _line("system", "host_cpu_iowait", 1.0, "thin", "iowait")),
        _host("busy", "host_cpu"), _host("user", "host_cpu_user"), _host("system", "host_cpu_system"),
        _host("nice", "host_cpu_nice"), _host("iowait", "host_cpu_iowait"), _host("steal", "host_cpu_steal"),
        _measure("the run's processes", _line("system", "cpu", 1.0, "solid", "all"),
                 _line("system", "cpu_user", 1.0, "dashed", "user"),
                 _line("system", "cpu_system", 1.0, "dotted", "system")) | {"unit": "cores busy"},
    ]},
    {"title": "memory", "unit": "GiB", "from_zero": True, "measures": [
        _host("the run's processes", "memory_bytes", 2.0**-30),
        _host("hosts: used", "host_memory_bytes", 2.0**-30),
        _host("hosts: available", "host_memory_available_bytes", 2.0**-30),
        _host("hosts: cached", "host_memory_cached_bytes", 2.0**-30),
        _host("hosts: buffers", "host_memory_buffers_bytes", 2.0**-30),
        _host("hosts: swap", "host_swap_bytes", 2.0**-30),
    ]},
    {"title": "network", "unit": "MB/s, all hosts", "from_zero": True, "measures": [
        _host("sent, loopback too", "network", 1e-6),
        _host("sent to other hosts", "host_sent_per_second", 1e-6),
        _host("received from other hosts", "host_received_per_second", 1e-6),
        _host("loopback", "loopback_per_second", 1e-6),
    ]},
    {"title": "disk", "unit": "MB/s, all hosts", "from_zero": True, "optional": True, "measures": [
        _measure("read and written", _line("system", "disk_read_per_second", 1e-6, "solid", "read"),
                 _line("system", "disk_written_per_second", 1e-6, "dashed", "written")),
    ]},
)  # fmt: skip


def _keys_of(stream: str) -> list[str]:
    every = (line for panel in PANELS for measure in panel["measures"] for line in measure["lines"])
    return sorted({line["key"] for line in every if line["stream"] == stream})


TRAIN_KEYS, EVAL_KEYS = _keys_of("train"), _keys_of("eval")


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
    """The ends of the paths: 'allreduce/seed0', and more where others are called so."""
    length = {path: 2 if re.fullmatch(r"seed[-_]?\d+", path.name) else 1 for path in paths}
    while True:
        names = {path: "/".join(path.parts[-length[path] :]).replace("//", "/") for path in paths}
        counts = collections.Counter(names.values())
        short = [path for path in paths if counts[names[path]] > 1 and length[path] < len(path.parts)]
        if not short:
            return names
        for path in short:
            length[path] += 1


def _folders_in(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return [inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith(".")]
    except OSError:  # it is gone, or nobody may look
        return []


class Runs:
    """All runs in some folders, as JSON. May be asked by several threads."""

    def __init__(self, folders: Sequence[pathlib.Path]) -> None:
        self._folders = folders
        self._feeds: dict[pathlib.Path, RunFeed] = {}
        self._lock = threading.Lock()

    def answer(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """What every run is at, and the new rows of some.

        Args:
          wanted: run's id -> the cursor of the answer before; '': everything.
        """
        with self._lock:
            names = find_runs(self._folders)
            self._feeds = {path: self._feeds.get(path) or RunFeed(path) for path in names}
            heads = [feed.head() | {"name": names[path]} for path, feed in self._feeds.items()]
            rows = {feed.id: feed.after(wanted[feed.id]) for feed in self._feeds.values() if feed.id in wanted}
        return {"runs": heads, "rows": {id: new for id, new in rows.items() if new is not None}}


class RunFeed:
    """One run: reads what is new, and hands out what a page does not have yet.

    A cursor says how many rows of each kind a page has, and of which reading: after a resume, or where rows came late,
    everything is sent again. Rows are kept in memory for runs that go on alone.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.id = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        self._folder = folder
        self._lines = GrowingLines()
        self._seen: Any = None
        self._run: Run | None = None
        self._head: dict[str, Any] = {}
        self._whole: dict[str, Any] | None = None
        self._cursor = ""
        self._ends: dict[str, tuple[int, int]] = {}  # of train and eval rows: how many there were, and the last update
        self._late = 0  # how often rows have come before those ends

    def head(self) -> dict[str, Any]:
        """The run in one line of the list: its state, and its newest numbers."""
        signature = self._signature()
        newest = max((t for _, t in signature.values()), default=0) / 1e9
        state = self._state(signature, newest)
        if signature != self._seen:
            self._seen, self._whole = signature, None
            try:
                self._run = read_run(self._folder, self._lines)
                self._cursor = self._cursor_of(self._run)
                self._head = _head_of(self._run)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
                self._run, self._lines, self._cursor = None, GrowingLines(), ""
                self._head = {"error": f"It cannot be read: {type(e).__name__}: {e}."}
        if state != "going" and self._run is not None:
            self._whole = self._part("", self._run)
            self._run, self._lines = None, GrowingLines()
        silent = max(time.time() - newest, 0.0)
        return {"id": self.id, "state": state, "silent_seconds": round(silent)} | self._head

    def after(self, cursor: str) -> dict[str, Any] | None:
        """Rows after a cursor; None: there are none. Called after `head`."""
        if cursor == self._cursor:
            return None
        return self._part(cursor, self._run) if self._run is not None else self._whole

    def _signature(self) -> dict[str, tuple[int, int]]:
        """Sizes and times (ns) of the files that `read_run` reads."""
        named = [self._folder / name for name in ("config.json", "summary.json", "metrics.jsonl")]
        found = {}
        for path in (*named, *sorted((self._folder / "system").glob("*.jsonl"))):
            with contextlib.suppress(OSError):  # it is not there
                stat = path.stat()
                found[path.name] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _state(self, signature: dict[str, tuple[int, int]], newest: float) -> str:
        if is_locked(self._folder / ".lock"):
            return "going"
        fresh = time.time() - newest < FRESH_SECONDS
        if "summary.json" in signature:
            resumed = newest - signature["summary.json"][1] / 1e9 > FRESH_SECONDS  # it went on after its end
            return "going" if resumed and fresh else "ended"
        return "going" if fresh else "stopped"

    def _cursor_of(self, run: Run) -> str:
        """`READING.TRAIN.EVAL.EVENTS.CELLS`; another reading where it is not enough to send what is new."""
        streams = {"train": run.train, "eval": run.evaluations}
        for name, (had, last) in self._ends.items():
            self._late += len(streams[name]) < had or streams[name][had - 1]["updates"] != last
        self._ends = {name: (len(rows), rows[-1]["updates"]) for name, rows in streams.items() if rows}
        starts = sum(event["event"] == "clock" for event in run.events)
        end = max((samples[-1]["time"] for samples in run.system.values() if samples), default=0.0)
        step = _step_of(run, end)
        reading = f"{starts}-{self._lines.restarts}-{self._late}-{step:g}".replace(".", "_")
        counts = (len(run.train), len(run.evaluations), len(run.events), int(end / step))
        return ".".join(map(str, (reading, *counts)))

    def _part(self, cursor: str, run: Run) -> dict[str, Any]:
        """What is new after `cursor`, thinned."""
        now, had = self._cursor.split("."), cursor.split(".")
        whole = len(had) != len(now) or had[0] != now[0] or not all(part.isdecimal() for part in had[1:])
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
