"""One step of a pipeline, as a picture and as a trace: which stage did which microbatch, when.

    python tools/pipeline_timeline.py DIR [--out=FILE.png] [--trace=FILE.json]

DIR is the run directory of a finished run with strategy.name=pipeline, whose summary has the last step's times. The
trace is in Chrome's event format, which Perfetto and chrome://tracing open. Clocks of several hosts are taken as they
are.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from run_reader import path_of

COLOURS = {"F": "#56B4E9", "B": "#E69F00"}  # Okabe and Ito's, as in run_plots.py


def read(folder: pathlib.Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(slots: replica, stage, spans [[action, begin, end] in seconds from the step's beginning], ...; the summary).

    Raises:
      SystemExit: no such summary.
    """
    path = folder / "summary.json"
    if not path.exists():
        raise SystemExit(f"{path} is not there: the run is unfinished, or {folder} is no run directory.")
    summary = json.loads(path.read_text())
    slots = summary.get("timeline") or []
    if not any(slot["spans"] for slot in slots):
        raise SystemExit(f"{path} has no timeline: its strategy is {summary.get('strategy')!r}, not a pipeline.")
    start = min(span[1] for slot in slots for span in slot["spans"])
    for slot in slots:
        slot["spans"] = [[action, begin - start, end - start] for action, begin, end in slot["spans"]]
    return sorted(slots, key=lambda slot: (slot["replica"], slot["stage"])), summary


def idle_share(slots: Sequence[dict[str, Any]]) -> float:
    """The measured bubble of the step that is shown."""
    whole = max(span[2] for slot in slots for span in slot["spans"])
    busy = sum(end - begin for slot in slots for _, begin, end in slot["spans"])
    return 1 - busy / (whole * len(slots))


def draw(slots: Sequence[dict[str, Any]], summary: dict[str, Any], out: pathlib.Path) -> None:
    """Needs the extra 'report'."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(11, 1.3 + 0.55 * len(slots)), layout="constrained")
    for row, slot in enumerate(slots):
        for action, begin, end in slot["spans"]:
            left, width = 1000 * begin, 1000 * (end - begin)
            axis.barh(row, width, left=left, height=0.8, color=COLOURS[action[0]], edgecolor="black", linewidth=0.6)
            axis.text(left + width / 2, row, action, ha="center", va="center", fontsize=7, clip_on=True)
    names = [f"stage {s['stage']}" + (f", replica {s['replica']}" if summary["replicas"] > 1 else "") for s in slots]
    axis.set_yticks(range(len(slots)), names)
    axis.invert_yaxis()
    axis.set_xlabel("ms of the last step (F: forward, B: backward pass of a microbatch)")
    predicted = summary["predicted"].get("bubble", summary["predicted"]["bubble_of_equal_stages"])
    axis.set_title(f"idle {100 * idle_share(slots):.0f} % of the time, predicted {100 * predicted:.0f} %", fontsize=10)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(out, dpi=150)


def trace(slots: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The 'complete' events of Chrome's trace format, microseconds; a replica is a process there, a stage a thread."""
    events: list[dict[str, Any]] = []
    for slot in slots:
        place = {"pid": slot["replica"], "tid": slot["stage"]}
        events.append({"ph": "M", "name": "thread_name", **place, "args": {"name": f"stage {slot['stage']}"}})
        for action, begin, end in slot["spans"]:
            events.append(
                {"ph": "X", "name": action, "ts": round(1e6 * begin), "dur": round(1e6 * (end - begin)), **place}
            )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=path_of)
    parser.add_argument("--out", type=path_of, help="the picture; DIR/timeline.png")
    parser.add_argument("--trace", type=pathlib.Path, help="the trace; DIR/timeline.json")
    options = parser.parse_args(argv)
    slots, summary = read(options.folder)
    picture, events = options.out or options.folder / "timeline.png", options.trace or options.folder / "timeline.json"
    draw(slots, summary, picture)
    events.write_text(json.dumps(trace(slots)))
    print(f"{picture} and {events}: idle {100 * idle_share(slots):.1f} % of the step.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
