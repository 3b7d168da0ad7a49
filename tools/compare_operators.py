"""Operators of two runs side by side, with the ratio of their ms a step; a part of compare_runs.

    python tools/compare_runs.py --operators A B [--process=worker-0] [--window=updates_10-30] [--out=DIR]

A and B are run directories: profiled ones (`profile/*/PROCESS.json`), or such with an `operators.json`, as
tools that train the same model in another system write: {"rows": [{"kind", "calls", "self_ms", "share"}, ...]}.
--out also writes operators.md and operators.csv. Profiles of different models, data or batches are refused.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from operator_kinds import COARSER
from run_reader import path_of

from jaxdist.errors import UsageError
from jaxdist.profiling.files import by_kind
from jaxdist.profiling.parts import different, read_part, windows_of

OTHER_SYSTEM = "operators.json"
_OF_THE_MODEL = ("model.", "data.name", "global_batch_size")
COLUMNS = ("kind", "calls_a", "ms_a", "share_a", "calls_b", "ms_b", "share_b", "ratio")


@dataclasses.dataclass(frozen=True)
class Operators:
    """The table of one run.

    Attributes:
      what: process and strategy, or the other system's file.
      about: what must be equal (model, data, batch), as far as it is known.
      notes: what a reader must know.
    """

    name: str
    what: str
    rows: list[dict[str, Any]]
    step_ms: float
    about: dict[str, Any]
    notes: list[str]


def read(folder: pathlib.Path, process: str = "worker-0", window: str = "") -> Operators:
    """Of a run directory; `window` '': the first.

    Raises:
      UsageError: it has no such table.
    """
    other = folder / OTHER_SYSTEM
    if other.exists():
        found = _json(other)
        rows = found.get("rows") if isinstance(found, dict) else found
        if not isinstance(rows, list) or not all(isinstance(r, dict) and {"kind", "self_ms"} <= r.keys() for r in rows):
            raise UsageError(f"{other} has no rows with kind and self_ms.")
        step = float(found.get("step_ms", 0.0) if isinstance(found, dict) else 0.0) or sum(r["self_ms"] for r in rows)
        about = found.get("config") if isinstance(found, dict) else None
        return Operators(str(folder), OTHER_SYSTEM, by_kind(rows), step, _of_the_model(about or _config(folder)), [])
    windows = windows_of(folder)
    if not windows:
        raise UsageError(f"{folder} has neither profile/*/PROCESS.json nor {OTHER_SYSTEM}: profile the run.")
    chosen = [path for path in windows if not window or path.name == window]
    if not chosen:
        raise UsageError(f"{folder} has no window {window}; it has {', '.join(path.name for path in windows)}.")
    path = chosen[0] / f"{process}.json"
    if not path.exists():
        there = sorted(other.stem for other in chosen[0].glob("*-*.json"))
        raise UsageError(f"{chosen[0]} has no profile of {process}; it has {', '.join(there)}.")
    part = read_part(path)
    about = part.about
    notes = [part.cut.replace(process, f"{process} in {folder}", 1)] if part.cut else []
    config = _of_the_model(about.get("config") or _config(folder))
    what = f"{process} of {about['strategy']}" if "strategy" in about else process
    return Operators(str(folder), what, by_kind(about["rows"]), about["step_ms"], config, notes)


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as e:
        raise UsageError(f"{path} cannot be read, it is damaged: {e}.") from e


def _config(folder: pathlib.Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    return _json(path) if path.exists() else {}


def _of_the_model(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key.startswith(_OF_THE_MODEL)}


def compare(a: Operators, b: Operators) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `COLUMNS`, the longest first and the whole step last; and notes. None: that side has no such row.

    Raises:
      UsageError: the two are of different models, data or batches.
    """
    differ = different(a.about, b.about, (a.name, b.name))
    if differ:
        raise UsageError(f"These profiles are of different models, data or batches: {'; '.join(differ)}.")
    notes = list(dict.fromkeys([*a.notes, *b.notes]))
    unknown = [one.name for one in (a, b) if not one.about]
    if unknown:
        notes.append(f"{' and '.join(unknown)}: of which model is not said; that both are of one was not checked.")
    sides = [_in_common_words(one.rows, other.rows) for one, other in ((a, b), (b, a))]
    kinds = list(dict.fromkeys(kind for side in sides for kind in side))
    nothing = {"calls": None, "self_ms": None, "share": None}
    rows = [_row(kind, *(side.get(kind, nothing) for side in sides)) for kind in kinds]
    rows.sort(key=lambda row: -max(row["ms_a"] or 0.0, row["ms_b"] or 0.0))
    whole = ({"calls": None, "self_ms": one.step_ms, "share": 1.0} for one in (a, b))
    return [*rows, _row("whole step", *whole)], notes


def _in_common_words(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{kind: row}; what the other side does not tell apart is taken together."""
    words = {row["kind"] for row in others}
    renamed = [dict(row) | {"kind": COARSER[row["kind"]]} if COARSER.get(row["kind"]) in words else row for row in rows]
    return {row["kind"]: row for row in by_kind(renamed)}


def _row(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    ratio = b["self_ms"] / a["self_ms"] if a["self_ms"] and b["self_ms"] is not None else None
    values = (kind, a["calls"], a["self_ms"], a["share"], b["calls"], b["self_ms"], b["share"], ratio)
    return dict(zip(COLUMNS, values, strict=True))


def as_markdown(names: tuple[str, str], rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Both tables and the ratio."""
    forms = ("{:.4g}", "{:.3f}", "{:.1%}", "{:.4g}", "{:.3f}", "{:.1%}", "{:.2f}")
    lines = [
        f"Self ms of one step. A: {names[0]}. B: {names[1]}.", "",
        "| operator | calls A | ms A | share A | calls B | ms B | share B | B/A |", "|---" + "|---:" * 7 + "|",
    ]  # fmt: skip
    for row in rows:
        cells = [form.format(row[c]) if row[c] is not None else "-" for c, form in zip(COLUMNS[1:], forms, strict=True)]
        lines.append(f"| {row['kind']} | {' | '.join(cells)} |")
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "compare_runs.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operators", nargs=2, type=path_of, metavar=("A", "B"), required=True)
    parser.add_argument("--process", default="worker-0", help="whose table, of jaxdist's runs")
    parser.add_argument("--window", default="", help="updates_FROM-TO; default: the first")
    parser.add_argument("--out", type=path_of)
    options = parser.parse_args(argv)
    try:
        a, b = (read(folder, options.process, options.window) for folder in options.operators)
        rows, notes = compare(a, b)
    except UsageError as e:
        print(e, file=sys.stderr)
        return 2
    text = as_markdown((f"{a.name} ({a.what})", f"{b.name} ({b.what})"), rows, notes)
    print(text, end="")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "operators.md").write_text(text)
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        (options.out / "operators.csv").write_text(table.getvalue())
    return 0
