"""Parts of a profile as processes write them, with times that a test chooses."""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Sequence
from typing import Any

BEGAN = 1_700_000_000.0  # of the window, Unix time
Event = tuple[str, str, float, float]  # title, thread, start after BEGAN, seconds

# Three calls in seconds after the window's beginning: worker 1 is 20 ms late, none is, worker 0 is 5 ms late.
FIRST = [("all-reduce.1", 0, 0.010, 0.040), ("all-reduce.1", 0, 0.100, 0.130), ("all-reduce.1", 0, 0.205, 0.210)]
SECOND = [("all-reduce.1", 0, 0.030, 0.040), ("all-reduce.1", 0, 0.100, 0.130), ("all-reduce.1", 0, 0.200, 0.210)]


def row(kind: str, self_ms: float, layer: str = "", **more: Any) -> dict[str, Any]:
    """A row of a table whose step takes 100 ms."""
    usual = {"direction": "", "calls": 1.0, "wall_ms": self_ms, "share": self_ms / 100, "gflop": 0.0}
    usual |= {"gflops_per_second": 0.0, "share_of_peak": 0.0, "megabytes": 0.0}
    return {"kind": kind, "layer": layer, "self_ms": self_ms} | usual | more


def write_part(
    folder: pathlib.Path,
    process: str,
    rows: Sequence[dict[str, Any]] = (),
    collectives: Sequence[Sequence[Any]] = (),
    events: Sequence[Event] = (),
    clock: float = 0.0,
    **about: Any,
) -> None:
    """Writes PROCESS.json and its timeline.

    Args:
      collectives: (instruction, device, start, end), in seconds after BEGAN.
      clock: seconds by which this process's clock is ahead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    usual = {"process": process, "host": "h0", "window": "updates_3-6", "updates": [3, 6], "steps": 3, "cut": False,
             "step_ms": 100.0, "peak_gflops": 50.0, "began": BEGAN + clock, "ended": BEGAN + clock + 0.3,
             "strategy": "allreduce", "num_processes": 2, "config": {"model.name": "cnn", "data.name": "digits"},
             "rows": list(rows)}  # fmt: skip
    moved = [[name, device, BEGAN + clock + start, BEGAN + clock + end] for name, device, start, end in collectives]
    (folder / f"{process}.json").write_text(json.dumps(usual | {"collectives": moved} | about))
    found = [{"ph": "M", "name": "process_name", "pid": process, "args": {"name": process}}]
    for title, thread, start, seconds in events:
        times = {"ts": 1e6 * (BEGAN + clock + start), "dur": 1e6 * seconds}
        found.append({"ph": "X", "name": title, "pid": process, "tid": thread, "args": {"instruction": title}} | times)
    content = json.dumps({"traceEvents": found}).encode()
    (folder / f"{process}.trace.json.gz").write_bytes(gzip.compress(content))
