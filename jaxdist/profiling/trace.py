"""A trace as intervals of time: what ran when, in which thread.

XLA's CPU backend writes, for each operation, an event where it is started and one named 'end: ...' where it is done,
which may be in another thread; both carry one number. An operation lasts from the one to the other.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np

_RUNTIME = ("ThunkExecutor::Execute",)
_DISPATCH = ("PjitFunction", "CommonPjRtLoadedExecutable", "ParseArguments", "PjRtCpuExecutable", "TfrtCpuExecutable")


class Operation(NamedTuple):
    """One instruction of one program, on one of this process's devices."""

    program: int
    instruction: str
    device: int


@dataclasses.dataclass
class Intervals:
    """[n] starts and ends in seconds since the trace began, and what each is."""

    start: np.ndarray
    end: np.ndarray
    what: list[Any]
    thread: list[int]

    def __len__(self) -> int:
        return len(self.what)

    def without(self, what: Any) -> Intervals:
        """All but those."""
        kept = [k for k, one in enumerate(self.what) if one != what]
        return Intervals(self.start[kept], self.end[kept], [self.what[k] for k in kept], [self.thread[k] for k in kept])

    def within(self, begin: float, end: float) -> Intervals:
        """Those that overlap [begin, end], cut to it."""
        kept = np.flatnonzero((self.end > begin) & (self.start < end))
        return Intervals(
            np.maximum(self.start[kept], begin),
            np.minimum(self.end[kept], end),
            [self.what[k] for k in kept],
            [self.thread[k] for k in kept],
        )


@dataclasses.dataclass
class Trace:
    """What a trace holds.

    Attributes:
      operations: of programs; each is an `Operation`.
      spans: of this process's own, by name.
      dispatch: programs being started, from Python.
      runtime: XLA's executor at work, with what it runs.
      unix_time: seconds of this host's clock when it began.
      programs: program id -> (its module's name, the instructions that ran).
    """

    operations: Intervals
    spans: Intervals
    dispatch: Intervals
    runtime: Intervals
    num_events: int
    unix_time: float
    programs: dict[int, tuple[str, frozenset[str]]] = dataclasses.field(default_factory=dict)


def count_events(path: pathlib.Path) -> int:
    """All events of a trace, those that nobody asks for included."""
    import jax

    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    return sum(1 for plane in planes for line in plane.lines for _ in line.events)


def read(path: pathlib.Path, spans: frozenset[str]) -> Trace:
    """Reads a trace; `spans`: the names of this process's own."""
    import jax

    data = jax.profiler.ProfileData.from_file(str(path))
    collected: dict[str, list[tuple[float, float, Any, int]]] = {k: [] for k in ("op", "span", "dispatch", "runtime")}
    ends: dict[Any, float] = {}
    modules: dict[int, str] = {}
    begun: list[tuple[float, float, Any, int, Any]] = []
    count = 0
    lines = [line for plane in data.planes for line in plane.lines]
    for number, line in enumerate(lines):  # several threads may have one name
        for event in line.events:
            count += 1
            name = event.name
            if name.startswith("end: "):
                ends[dict(event.stats).get("_c")] = event.start_ns
            elif name in spans:
                collected["span"].append((event.start_ns, event.end_ns, name, number))
            elif name.startswith(_RUNTIME):
                collected["runtime"].append((event.start_ns, event.end_ns, name, number))
            elif name.startswith(_DISPATCH):
                collected["dispatch"].append((event.start_ns, event.end_ns, name, number))
            elif not name.startswith("Threadpool"):
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    device = int(stats.get("device_ordinal", 0))
                    what = Operation(int(stats.get("program_id", -1)), str(stats["hlo_op"]), device)
                    modules[what.program] = str(stats.get("hlo_module", ""))
                    begun.append((event.start_ns, event.end_ns, what, number, stats.get("_p")))
    for start, end, what, thread, number in begun:
        collected["op"].append((start, max(end, ends.get(number, end)), what, thread))
    ran: dict[int, set[str]] = collections.defaultdict(set)
    for _, _, what, _, _ in begun:
        ran[what.program].add(what.instruction)
    programs = {number: (modules[number], frozenset(names)) for number, names in ran.items()}
    made = {kind: _intervals(rows) for kind, rows in collected.items()}
    return Trace(made["op"], made["span"], made["dispatch"], made["runtime"], count, _unix_time(data), programs)


def _unix_time(data: Any) -> float:
    for plane in data.planes:
        if "profile_start_time" in (stats := dict(plane.stats)):
            return int(stats["profile_start_time"]) * 1e-9
    return 0.0


def _intervals(rows: list[tuple[float, float, Any, int]]) -> Intervals:
    rows.sort(key=lambda row: row[0])
    seconds = 1e-9 * np.array([row[:2] for row in rows], np.float64).reshape(-1, 2)
    return Intervals(seconds[:, 0], seconds[:, 1], [row[2] for row in rows], [row[3] for row in rows])
