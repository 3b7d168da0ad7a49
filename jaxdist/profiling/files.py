"""What a profile writes of one process, and how it is read again.

profile/updates_10-30/worker-0.json        all of it: rows, collectives, what it is of
                      worker-0.csv, .md    the rows
                      worker-0.trace.json.gz   the timeline, for Perfetto or chrome://tracing
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxdist.profiling.table import Row, Table
from jaxdist.profiling.trace import Trace

COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
TITLES = {
    "kind": "operator", "layer": "layer", "direction": "direction", "calls": "calls/step", "self_ms": "self ms",
    "wall_ms": "wall ms", "share": "share %", "gflop": "GFLOP", "gflops_per_second": "GFLOP/s",
    "share_of_peak": "of peak %", "megabytes": "MB",
}  # fmt: skip


def write(folder: pathlib.Path, process: str, about: Mapping[str, Any], table: Table, trace: Trace) -> None:
    """Writes all files of one process, each in one piece.

    Raises:
      OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(row) for row in table.rows]
    found = dict(about) | {"step_ms": table.step_ms, "rows": rows, "collectives": table.collectives}
    found["groups"] = table.groups
    _replace(folder / f"{process}.json", json.dumps(_rounded(found), indent=1).encode())
    _replace(folder / f"{process}.csv", as_csv(rows).encode())
    _replace(folder / f"{process}.md", as_markdown(found).encode())
    events = {"traceEvents": list(timeline(process, table, trace)), "displayTimeUnit": "ms"}
    _replace(folder / f"{process}.trace.json.gz", gzip.compress(json.dumps(events).encode(), 5))


def _replace(path: pathlib.Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return round(value, 6) if isinstance(value, float) else value


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(found: Mapping[str, Any], most: int = 60) -> str:
    """The table of one process, its longest rows."""
    rows = found["rows"]
    first, last = found["updates"]
    lines = [
        f"# {found['process']}: {found['steps']} steps, updates {first + 1} to {last}",
        "",
        f"A step took {found['step_ms']:.2f} ms. Self times add up to it; wall times overlap. GFLOP: of convolutions "
        f"and matrix products. Peak: {found['peak_gflops']:.0f} GFLOP/s, a large matrix product on this process's "
        "cores.",
        "",
        "| " + " | ".join(TITLES[c] for c in COLUMNS) + " |",
        "|---|---|---" + "|---:" * (len(COLUMNS) - 3) + "|",
        *("| " + " | ".join(cell(c, row[c]) for c in COLUMNS) + " |" for row in rows[:most]),
    ]
    if len(rows) > most:
        rest = sum(row["self_ms"] for row in rows[most:])
        lines += ["", f"{len(rows) - most} further rows, {rest:.2f} ms together, are in the .csv file."]
    return "\n".join(lines) + "\n"


def cell(column: str, value: Any) -> str:
    """One value of a row as text."""
    if isinstance(value, str):
        return value
    if column in ("share", "share_of_peak"):
        return f"{100 * value:.1f}" if value else ""
    if column == "gflops_per_second":
        return f"{value:.0f}" if value else ""
    if column == "gflop":
        return f"{value:.4g}" if value else ""
    if column == "megabytes":
        return f"{value:.2f}" if value else ""
    return f"{value:.3f}" if column != "calls" else f"{value:g}"


def by_kind(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all layers together: {kind, calls, self_ms, share, gflop, megabytes}, the longest first."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = found.setdefault(row["kind"], {"kind": row["kind"]} | dict.fromkeys(_SUMMED, 0.0))
        for key in _SUMMED:
            one[key] += row.get(key, 0.0)
    return sorted(found.values(), key=lambda row: -row["self_ms"])


_SUMMED = ("calls", "self_ms", "share", "gflop", "megabytes")


def timeline(process: str, table: Table, trace: Trace) -> Iterable[dict[str, Any]]:
    """Events of Chrome's trace format, with Unix microseconds: what ran, what was waited for."""
    pid = process
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": process}}
    zero = trace.unix_time
    operations = table.operations
    for what, name, start, end, thread in zip(
        operations.what, table.named, operations.start, operations.end, operations.thread, strict=True
    ):
        title = f"{name.kind} {name.layer}".strip()
        yield _event(title, pid, thread, zero + start, end - start, {"instruction": what.instruction})
    spans = trace.spans
    for what, start, end, thread in zip(spans.what, spans.start, spans.end, spans.thread, strict=True):
        yield _event(str(what), pid, f"python {thread}", zero + start, end - start, {})


def _event(title: str, pid: str, thread: Any, start: float, seconds: float, args: dict[str, Any]) -> dict[str, Any]:
    times = {"ts": round(1e6 * start, 1), "dur": round(1e6 * seconds, 1)}
    return {"ph": "X", "name": title, "pid": pid, "tid": str(thread), "args": args} | times


def read_profile(path: pathlib.Path) -> dict[str, Any]:
    """What `write` has put into PROCESS.json."""
    return json.loads(path.read_text())
