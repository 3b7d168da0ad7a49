"""The table of all processes together, by kind: as rows, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.profiling.files import by_kind
from jaxdist.profiling.parts import Part, in_words

COLUMNS = ("role", "kind", "calls", "min_ms", "mean_ms", "max_ms", "most_in", "share", "gflop", "megabytes")


def summarised(parts: Sequence[Part], rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """By role and kind: least, mean and most self time a step over the processes; 0 counts where one does not have it.
    The other columns are means."""
    found = []
    for role in dict.fromkeys(part.role for part in parts):
        names = [part.process for part in parts if part.role == role]
        tables = [
            {row["kind"]: row for row in by_kind(own)}
            for part, own in zip(parts, rows, strict=True)
            if part.role == role
        ]
        for kind in dict.fromkeys(kind for table in tables for kind in table):
            ms = [table[kind]["self_ms"] if kind in table else 0.0 for table in tables]
            means = {
                key: sum(table[kind][key] for table in tables if kind in table) / len(tables)
                for key in ("calls", "share", "gflop", "megabytes")
            }
            spread = {"min_ms": min(ms), "mean_ms": sum(ms) / len(ms), "max_ms": max(ms)}
            most_in = names[ms.index(max(ms))] if max(ms) > min(ms) else ""
            found.append({"role": role, "kind": kind, "most_in": most_in} | spread | means)
    roles = list(dict.fromkeys(part.role for part in parts))
    return sorted(found, key=lambda row: (roles.index(row["role"]), -row["mean_ms"]))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({key: round(v, 6) if isinstance(v := row[key], float) else v for key in COLUMNS} for row in rows)
    return text.getvalue()


def as_markdown(found: Mapping[str, Any]) -> str:
    """What summary.json holds, as tables."""
    window = in_words(found["window"])
    lines = [f"# {window[0].upper()}{window[1:]}, processes: {len(found['processes'])}", ""]
    lines += [*(f"- {note}" for note in found["notes"]), ""] if found["notes"] else []
    lines += ["| process | host | steps | ms a step |", "|---|---|---:|---:|"]
    lines += [
        f"| {p['process']} | {p.get('host', '')} | {p['steps']} | {p['step_ms']:.2f} |" for p in found["processes"]
    ]
    lines += ["", "Self ms a step: least, mean and most over the processes of a role.", ""]
    lines += ["| | operator | calls | min | mean | max | most in | share % |", "|---|---|---:|---:|---:|---:|---|---:|"]
    lines += [
        f"| {r['role']} | {r['kind']} | {r['calls']:.4g} | {r['min_ms']:.3f} | {r['mean_ms']:.3f} | "
        f"{r['max_ms']:.3f} | {r['most_in']} | {100 * r['share']:.1f} |"
        for r in found["rows"]
    ]
    if found["collectives"]:
        title = "process | collective | calls | waiting for the slowest | exchange | longest wait"
        lines += ["", "Inside collectives, ms a step; the longest wait is of one call.", "", f"| {title} |"]
        lines += ["|---|---|---:|---:|---:|---:|"]
        lines += [
            f"| {c['process']} | {c['kind']} | {c['calls']:.4g} | {c['waiting_ms']:.3f} | {c['exchange_ms']:.3f} | "
            f"{c['longest_wait_ms']:.3f} |"
            for c in found["collectives"]
        ]
    return "\n".join(lines) + "\n"
