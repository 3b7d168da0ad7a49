"""One profile of all processes, made out of what each has written.

profile/updates_10-30/summary.json, .csv, .md    by kind over all processes; collectives: waiting and exchange
                      all.trace.json.gz          all timelines on one clock, for Perfetto or chrome://tracing
                      index.html                 the same to look at (`page.py`)
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdist.profiling import collectives, page, timeline
from jaxdist.profiling.collectives import EXCHANGE, WAITING, Calls, Clock, Split
from jaxdist.profiling.parts import Part, read_parts
from jaxdist.profiling.summary import as_csv, as_markdown, summarised
from jaxdist.profiling.timeline import Timeline


@dataclasses.dataclass(frozen=True)
class Merged:
    """All parts of a window, in one order.

    Attributes:
      rows: of each process, those of its collectives as waiting and exchange.
      middle: Unix time in the middle of what all processes have recorded.
      summary: rows of `summary.COLUMNS`, the longest first.
      notes: sentences that a reader must know.
    """

    parts: list[Part]
    rows: list[list[dict[str, Any]]]
    splits: list[list[Split]]
    calls: list[Calls]
    clocks: dict[str, Clock]
    timelines: list[Timeline]
    middle: float
    summary: list[dict[str, Any]]
    notes: list[str]


def merge_folder(folder: pathlib.Path) -> pathlib.Path:
    """Merges what all processes have written into the folder of a window; gives the page. Blocks for some seconds.

    Raises:
      UsageError: there is nothing, or it does not belong together.
      OSError: the folder cannot be written.
    """
    return write(merge([folder]), folder)


def merge(folders: Sequence[pathlib.Path]) -> Merged:
    """Reads the parts of one window; `folders` are several where hosts have run directories of their own.

    Raises:
      UsageError: there is nothing, or it does not belong together.
    """
    parts = read_parts(folders)
    timelines, notes = [], _notes_on(parts)
    for part in parts:
        try:
            timelines.append(timeline.read_timeline(part.trace))
        except (OSError, ValueError, KeyError, EOFError) as e:
            notes.append(f"{part.process} has no timeline: {part.trace.name} cannot be read ({type(e).__name__}).")
            timelines.append(timeline.empty())
    kinds = [{i: t for i, t in one.titles_of().items() if t in collectives.COLLECTIVES} for one in timelines]
    calls, clocks = collectives.compare(parts, kinds)
    moved = [clocks[part.host].moved for part in parts]
    timelines = [dataclasses.replace(one, start=one.start + by) for one, by in zip(timelines, moved, strict=True)]
    splits = [collectives.split(part, own) for part, own in zip(parts, calls, strict=True)]
    rows = [divided(part.about["rows"], own) for part, own in zip(parts, splits, strict=True)]
    notes += _notes_on_clocks(clocks) + _notes_on_calls(parts, calls)
    begins, ends = ([p.about[key] + by for p, by in zip(parts, moved, strict=True)] for key in ("began", "ended"))
    middle = (max(begins) + min(ends)) / 2
    if min(ends) <= max(begins):
        notes.append("The processes did not record at the same time: there is no moment that all timelines have.")
    return Merged(parts, rows, splits, calls, clocks, timelines, middle, summarised(parts, rows), notes)


def write(merged: Merged, folder: pathlib.Path) -> pathlib.Path:
    """Writes all files; gives the page's.

    Raises:
      OSError: the folder cannot be written.
    """
    kept, reach = timeline.within_limit(merged.timelines, merged.middle)
    notes = list(merged.notes)
    if np.isfinite(reach):
        notes.append(
            f"all.trace.json.gz has the {2 * reach:.2f} s in the middle alone: {timeline.MOST_EVENTS} events. Each "
            "process's own trace has all of them."
        )
    merged = dataclasses.replace(merged, notes=notes)
    found = as_dict(merged)
    _replace(folder / "summary.json", json.dumps(found, indent=1) + "\n")
    _replace(folder / "summary.csv", as_csv(merged.summary))
    _replace(folder / "summary.md", as_markdown(found))
    zero = min(part.about["began"] + merged.clocks[part.host].moved for part in merged.parts)
    processes = [(p.process, one, calls) for p, one, calls in zip(merged.parts, kept, merged.calls, strict=True)]
    timeline.write_trace(folder / "all.trace.json.gz", processes, zero, {"notes": notes})
    _replace(folder / "index.html", page.page(merged))
    return folder / "index.html"


def _replace(path: pathlib.Path, content: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(content)
    os.replace(part, path)


def divided(rows: Sequence[Mapping[str, Any]], splits: Sequence[Split]) -> list[dict[str, Any]]:
    """Rows of a process with those of its collectives in two: the time of each divided as that inside the calls is."""
    by = {split.kind: split for split in splits}
    found: list[dict[str, Any]] = []
    for row in rows:
        if row["kind"] not in by:
            found.append(dict(row))
            continue
        share = by[row["kind"]].waiting_share
        for name, part in ((WAITING, share), (EXCHANGE, 1 - share)):
            times = {key: part * row[key] for key in ("self_ms", "wall_ms", "share")}
            nothing = {} if name == EXCHANGE else {"megabytes": 0.0}
            found.append(dict(row) | times | nothing | {"kind": f"{row['kind']}: {name}"})
    return sorted(found, key=lambda row: -row["self_ms"])


def as_dict(merged: Merged) -> dict[str, Any]:
    """What summary.json holds."""
    first = merged.parts[0].about
    known = {key: first[key] for key in ("window", "strategy", "num_processes", "config") if key in first}
    own = ("process", "host", "steps", "updates", "cut", "step_ms", "peak_gflops")
    return known | {
        "processes": [{key: part.about[key] for key in own if key in part.about} for part in merged.parts],
        "clocks": {host: dataclasses.asdict(clock) for host, clock in merged.clocks.items() if host},
        "collectives": [
            {"process": part.process} | dataclasses.asdict(split)
            for part, own_splits in zip(merged.parts, merged.splits, strict=True)
            for split in own_splits
        ],
        "rows": merged.summary,
        "notes": merged.notes,
    }


def _notes_on(parts: Sequence[Part]) -> list[str]:
    notes = [part.cut for part in parts if part.cut]
    wanted = int(parts[0].about.get("num_processes", 0)) if parts[0].role == "worker" else 0
    there = {part.process for part in parts}
    missing = [name for name in (f"worker-{k}" for k in range(wanted)) if name not in there]
    if missing:
        of_those = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        effect = ": waiting for them counts as exchange" if any(p.about.get("collectives") for p in parts) else ""
        notes.append(f"{len(missing)} of {wanted} workers are missing here ({of_those}){effect}.")
    return notes


def _notes_on_clocks(clocks: Mapping[str, Clock]) -> list[str]:
    home, *others = clocks
    return [
        f"The clock of {host} was moved by {1e3 * clock.moved:+.3f} ms to that of {home}: {clock.calls} collectives "
        f"ended at the same time on both (half of them within {1e3 * clock.spread:.3f} ms)."
        if (clock := clocks[host]).calls
        else f"The clocks of {home} and {host} are as they are: there is no collective by which to compare them."
        for host in others
    ]


def _notes_on_calls(parts: Sequence[Part], calls: Sequence[Calls]) -> list[str]:
    notes = []
    for part, own in zip(parts, calls, strict=True):
        unknown = int(np.isnan(own.waiting).sum())
        if unknown and len(parts) > 1:
            notes.append(
                f"{unknown} of {len(own)} collectives of {part.process} were not found on all processes; they are "
                "divided into waiting and exchange as the others of their kind are."
            )
    return notes
