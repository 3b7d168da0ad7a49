"""The page of a profile: one HTML file that needs nothing from the network.

page.html, page.css and page.js are put together with the numbers of a `Merged`. Its size is bounded: so many rows, and
so many events of the timeline, of which the shortest are left out first.
"""

from __future__ import annotations

import dataclasses
import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdist.profiling import files
from jaxdist.profiling.table import AWAY
from jaxdist.profiling.timeline import lane_of, pieces

if TYPE_CHECKING:
    from jaxdist.profiling.merge import Merged

MOST_ROWS = 12_000  # of all processes
MOST_EVENTS = 6_000
STEPS_SHOWN = 2.0
_DEEPEST = 5  # rows of a lane for events that contain each other
_FACTS = ("process", "host", "steps", "updates", "cut", "step_ms", "peak_gflops")


def page(merged: Merged) -> str:
    """The page as text."""
    kept = importlib.resources.files("jaxdist.profiling")
    text, style, script = ((kept / f"page.{kind}").read_text() for kind in ("html", "css", "js"))
    strategy = merged.parts[0].about.get("strategy", "")
    what = f"Where a step's time goes: {merged.parts[0].window}" + (f", {strategy}" if strategy else "")
    values = json.dumps(numbers(merged), separators=(",", ":")).replace("<", "\\u003c")
    filled = {"TITLE": html.escape(what), "STYLE": style, "SCRIPT": script, "NUMBERS": values}
    for name, value in filled.items():
        before, mark, after = text.partition(f"@{name}@")
        assert mark, name
        text = before + value + after
    return text


def numbers(merged: Merged) -> dict[str, Any]:
    """What the page shows, as its script reads it."""
    most = max(MOST_ROWS // len(merged.parts), 20)
    processes = []
    for part, rows in zip(merged.parts, merged.rows, strict=True):
        facts = {key: part.about[key] for key in _FACTS if key in part.about}
        shown = [[_short(row[column]) for column in files.COLUMNS] for row in rows[:most]]
        kinds = [[_short(value) for value in row.values()] for row in files.by_kind(rows)]
        left = [len(rows) - len(shown), _short(sum(row["self_ms"] for row in rows[most:]))]
        processes.append(facts | {"rows": shown, "kinds": kinds, "left_out": left})
    return {
        "columns": list(files.COLUMNS),
        "titles": files.TITLES,
        "processes": processes,
        "order": _order(merged.rows),
        "away": list(AWAY),  # beside the step
        "summary": [{key: _short(value) for key, value in row.items()} for row in merged.summary],
        "collectives": [
            {"process": part.process} | {key: _short(value) for key, value in dataclasses.asdict(split).items()}
            for part, splits in zip(merged.parts, merged.splits, strict=True)
            for split in splits
        ],
        "notes": merged.notes,
        "timeline": excerpt(merged),
    }


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _order(tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """All kinds of the step, the longest over all processes first: this gives each its colour."""
    seconds: dict[str, float] = {}
    for row in (row for rows in tables for row in rows if row["kind"] not in AWAY):
        seconds[row["kind"]] = seconds.get(row["kind"], 0.0) + row["self_ms"]
    return sorted(seconds, key=lambda kind: -seconds[kind])


def excerpt(merged: Merged) -> dict[str, Any]:
    """About two steps in the middle: lanes, and events as [lane, row in it, title, start, length] in microseconds."""
    workers = [part for part in merged.parts if part.role == merged.parts[0].role]
    half = STEPS_SHOWN / 2 * max(part.about["step_ms"] for part in workers) / 1e3
    begin, end = merged.middle - half, merged.middle + half
    lanes: list[dict[str, Any]] = []
    titles: dict[tuple[str, str], int] = {}
    found: list[tuple[int, int, float, float, bool]] = []  # lane, title, start, end, of a collective's own lane
    for number, (part, line, calls) in enumerate(zip(merged.parts, merged.timelines, merged.calls, strict=True)):
        kinds = {f"{row['kind']} {row['layer']}".strip(): row["kind"] for row in part.about["rows"]}
        own: dict[str, int] = {}

        def add(lane: str, title: str, kind: str, start: float, stop: float, kept: bool, number: int = number,
                own: dict[str, int] = own) -> None:  # fmt: skip
            if lane not in own:
                own[lane] = len(lanes)
                lanes.append({"process": number, "name": lane})
            key = titles.setdefault((kind, title), len(titles))
            found.append((own[lane], key, max(start, begin), min(stop, end), kept))

        for name, start, stop, device in pieces(calls):
            if stop > begin and start < end:
                add(f"collectives, device {device}", name, name, start, stop, True)
        for k in np.flatnonzero((line.start + line.seconds > begin) & (line.start < end)):
            title = line.titles[line.title[k]]
            add(
                lane_of(line.threads[line.thread[k]]),
                title,
                kinds.get(title, title),
                line.start[k],
                line.start[k] + line.seconds[k],
                False,
            )
    lanes, places = _sorted_lanes(lanes)
    found = [(places[lane], *rest) for lane, *rest in found]  # type: ignore[misc]
    found.sort(key=lambda event: (not event[4], event[2] - event[3]))
    kept, left = found[:MOST_EVENTS], found[MOST_EVENTS:]
    kept.sort(key=lambda event: (event[0], event[2], -event[3]))
    return {
        "begin_ms": _short(1e3 * (begin - min(p.about["began"] + merged.clocks[p.host].moved for p in merged.parts))),
        "length": _short(1e6 * (end - begin)),
        "lanes": lanes,
        "titles": [list(key) for key in titles],
        "events": _placed(kept, lanes, begin),
        "left_out": [len(left), _short(1e6 * max((e[3] - e[2] for e in left), default=0.0))],
    }


def _sorted_lanes(lanes: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """By process, collectives first, then Python's threads; and {place before: place}."""

    def rank(k: int) -> tuple[int, int, str]:
        name = lanes[k]["name"]
        return lanes[k]["process"], ("collectives", "python", "thread").index(name.split(" ")[0].strip(",")), name

    order = sorted(range(len(lanes)), key=rank)
    return [lanes[k] for k in order], {k: place for place, k in enumerate(order)}


def _placed(
    events: Sequence[tuple[int, int, float, float, bool]], lanes: list[dict[str, Any]], begin: float
) -> list[list[float]]:
    """With a row for each event: one that begins while others of its lane are under way lies below them."""
    placed = []
    ends: list[float] = []
    lane = -1
    for event in events:
        if event[0] != lane:
            lane, ends = event[0], []
        row = next((k for k, end in enumerate(ends) if end <= event[2] + 1e-7), len(ends))
        row = min(row, _DEEPEST - 1)
        ends[row:] = [event[3]] if row >= len(ends) else [event[3], *ends[row + 1 :]]
        lanes[lane]["rows"] = max(lanes[lane].get("rows", 1), row + 1)
        placed.append(
            [lane, row, event[1], *(round(1e6 * float(t), 1) for t in (event[2] - begin, event[3] - event[2]))]
        )
    return placed
