"""Timelines of all processes on one clock: read from their files, written as one trace, and cut for a page."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdist.profiling.collectives import EXCHANGE, WAITING, Calls

_ROUNDING = 5e-7  # seconds: what Unix times as floats tell apart
MOST_EVENTS = 1_000_000  # of the merged trace: what a viewer opens in some seconds


@dataclasses.dataclass
class Timeline:
    """[n] events of one process, in order of their starts.

    Attributes:
      start, seconds: Unix time and length.
      title, thread, instruction: numbers in `titles`, `threads` and `instructions`.
    """

    start: np.ndarray
    seconds: np.ndarray
    title: np.ndarray
    thread: np.ndarray
    instruction: np.ndarray
    titles: list[str]
    threads: list[str]
    instructions: list[str]

    def __len__(self) -> int:
        return len(self.start)

    def chosen(self, which: np.ndarray) -> Timeline:
        cut = {key: getattr(self, key)[which] for key in ("start", "seconds", "title", "thread", "instruction")}
        return dataclasses.replace(self, **cut)

    def titles_of(self) -> dict[str, str]:
        """{instruction: title}."""
        pairs = {(i, t) for i, t in zip(self.instruction.tolist(), self.title.tolist(), strict=True)}
        return {self.instructions[i]: self.titles[t] for i, t in pairs if self.instructions[i]}


def read_timeline(path: pathlib.Path) -> Timeline:
    """Of PROCESS.trace.json.gz (`files.timeline`).

    Raises:
      OSError, ValueError: it cannot be read.
    """
    events = [e for e in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"] if e["ph"] == "X"]
    events.sort(key=lambda event: (event["ts"], -event["dur"]))  # what contains others before them
    names: tuple[dict[str, int], dict[str, int], dict[str, int]] = ({}, {}, {})
    numbers = [
        [of.setdefault(value, len(of)) for of, value in zip(names, _words(event), strict=True)] for event in events
    ]
    of = np.array(numbers, np.int32).reshape(-1, 3)
    starts, lengths = (1e-6 * np.array([event[key] for event in events], np.float64) for key in ("ts", "dur"))
    titles, threads, instructions = map(list, names)
    return Timeline(starts, lengths, of[:, 0], of[:, 1], of[:, 2], titles, threads, instructions)


def _words(event: dict[str, Any]) -> tuple[str, str, str]:
    return event["name"], str(event["tid"]), event["args"].get("instruction", "")


def empty() -> Timeline:
    """Of a process whose trace is not there."""
    none, nothing = np.array([], np.float64), np.array([], np.int32)
    return Timeline(none, none, nothing, nothing, nothing, [], [], [])


def within_limit(timelines: Sequence[Timeline], middle: float, most: int = MOST_EVENTS) -> tuple[list[Timeline], float]:
    """The events nearest to a moment, `most` of them in all, and how many seconds they reach on either side; inf where
    nothing had to be left out."""
    distances = np.concatenate([np.abs(one.start - middle) for one in timelines] or [np.array([])])
    if len(distances) <= most:
        return list(timelines), float("inf")
    reach = float(np.partition(distances, most)[most])
    return [one.chosen(np.abs(one.start - middle) < reach) for one in timelines], reach


def write_trace(
    path: pathlib.Path, processes: Sequence[tuple[str, Timeline, Calls]], zero: float, remarks: dict[str, Any]
) -> None:
    """Writes one trace in Chrome's format, with an entry for each process and times since `zero`, a Unix time.

    Raises:
      OSError: the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    with gzip.open(part, "wt", compresslevel=4) as file:
        file.write('{"displayTimeUnit": "ms", "otherData": ' + json.dumps(remarks | {"unix_time_of_0": zero}))
        file.write(', "traceEvents": [')
        first = True
        for number, (process, timeline, calls) in enumerate(processes, 1):
            for event in _events(number, process, timeline, calls, zero):
                file.write(event if first else ",\n" + event)
                first = False
        file.write("]}\n")
    os.replace(part, path)


def _events(pid: int, process: str, timeline: Timeline, calls: Calls, zero: float) -> Iterator[str]:
    yield _label("process_name", pid, 0, {"name": process})
    yield _label("process_sort_index", pid, 0, {"sort_index": pid})
    lanes: dict[tuple[int, int], int] = {}
    titles, instructions = [json.dumps(t) for t in timeline.titles], [json.dumps(i) for i in timeline.instructions]
    starts, lengths = 1e6 * (timeline.start - zero), 1e6 * timeline.seconds
    columns = (timeline.title, timeline.thread, timeline.instruction, starts, lengths)
    beside = nested(timeline)
    for row, (title, thread, instruction, start, length) in zip(
        beside, zip(*(c.tolist() for c in columns), strict=True), strict=True
    ):
        tid = lanes.setdefault((thread, row), len(lanes) + 1)
        yield (
            f'{{"ph":"X","name":{titles[title]},"pid":{pid},"tid":{tid},"ts":{start:.1f},"dur":{length:.1f},'
            f'"args":{{"instruction":{instructions[instruction]}}}}}'
        )
    for (thread, row), tid in lanes.items():
        name = lane_of(timeline.threads[thread]) + (f", beside ({row})" if row else "")
        yield _label("thread_name", pid, tid, {"name": name})
    lane = len(lanes) + 1
    for device in sorted(set(calls.device.tolist())):
        yield _label("thread_name", pid, lane + device, {"name": f"collectives, device {device}"})
    for name, start, end, device in pieces(calls):
        yield (
            f'{{"ph":"X","name":{json.dumps(name)},"pid":{pid},"tid":{lane + device},"ts":{1e6 * (start - zero):.1f},'
            f'"dur":{1e6 * (end - start):.1f},"args":{{}}}}'
        )


def nested(timeline: Timeline) -> list[int]:
    """The lane of each event beside its thread's own (0): events of a lane contain each other or lie apart, which is
    what viewers need. An operation that is done in another thread may overlap what follows it here."""
    open_ends: dict[int, list[list[float]]] = {}  # thread -> for each of its lanes the ends of what is under way
    found = []
    columns = (timeline.thread, timeline.start, timeline.start + timeline.seconds)
    for thread, start, end in zip(*(c.tolist() for c in columns), strict=True):
        lanes = open_ends.setdefault(thread, [])
        for under_way in lanes:
            while under_way and under_way[-1] <= start + _ROUNDING:
                under_way.pop()
        row = next((k for k, ends in enumerate(lanes) if not ends or end <= ends[-1] + _ROUNDING), len(lanes))
        if row == len(lanes):
            lanes.append([])
        lanes[row].append(end)
        found.append(row)
    return found


def lane_of(thread: str) -> str:
    """'1' -> 'thread 1'; 'python 0' stays."""
    return thread if " " in thread else f"thread {thread}"


def pieces(calls: Calls) -> Iterator[tuple[str, float, float, int]]:
    """(name, start, end, device): each call as its waiting and its exchange, or whole where that is not known."""
    columns = (calls.device, calls.start, calls.end, calls.waiting)
    for kind, (device, start, end, waiting) in zip(
        calls.kind, zip(*(c.tolist() for c in columns), strict=True), strict=True
    ):
        if waiting != waiting:
            yield kind, start, end, device
            continue
        if waiting > 0:
            yield f"{kind}: {WAITING}", start, start + waiting, device
        yield f"{kind}: {EXCHANGE}", start + waiting, end, device


def _label(what: str, pid: int, tid: int, args: dict[str, Any]) -> str:
    return json.dumps({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args})
