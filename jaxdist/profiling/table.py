"""The rows of a profile: one for each kind of operator in each layer, and one for each thing that training waits for.

Of a moment at which several of them apply, the first has it:

    evaluation, checkpoint      what is not training, with all that runs for it
    operations of programs      shared evenly among those that run at once
    collectives
    loops and calls             what is between the operations inside them
    the training thread         data wait, logging, and other things that it does itself
    other threads               push, pull, send, pipeline idle, where the training thread waits for nothing else
    XLA's executor              between operations
    server wait, device wait    of the training thread, where nothing says what for
    dispatch                    starting programs
    Python of a step            what a strategy does beside all that
    not attributed
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdist.ops import kinds
from jaxdist.profiling.attribution import self_times, wall_time
from jaxdist.profiling.naming import WRAPPERS, Name, name_of
from jaxdist.profiling.trace import Intervals, Trace
from jaxdist.runtime import profiler
from jaxdist.runtime.program import COLLECTIVES, Program, replica_groups

NOT_ATTRIBUTED, EXECUTOR, UNKNOWN = "not attributed", "XLA's executor", "operation of an unknown program"
IDLE = "waiting for calls"  # what a server does the rest of the time
AWAY = (profiler.EVALUATION, profiler.CHECKPOINT)
_WAITS = (profiler.SERVER_WAIT, profiler.DEVICE_WAIT)
_OTHER_THREADS = (profiler.PUSH, profiler.PUSH_PULL, profiler.PULL, profiler.PIPELINE_WAIT, profiler.SEND)
_BY_DEFINITION = (
    kinds.CONVOLUTION_FORWARD,
    kinds.CONVOLUTION_INPUT_GRADIENT,
    kinds.CONVOLUTION_KERNEL_GRADIENT,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table; all but `share` and the rates are of one step, on average.

    Attributes:
      calls: how often it ran.
      self_ms: the rows' add up to the step.
      wall_ms: during which at least one call was under way.
      share: of self_ms in the step.
      gflop: of convolutions and matrix products; 10^9 operations.
      gflops_per_second, share_of_peak: of gflop in wall_ms, and beside a large matrix product.
      megabytes: read and written, by the shapes of the arrays.
    """

    kind: str
    layer: str
    direction: str
    calls: float
    self_ms: float
    wall_ms: float
    share: float
    gflop: float = 0.0
    gflops_per_second: float = 0.0
    share_of_peak: float = 0.0
    megabytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Table:
    """Of one process and one window.

    Attributes:
      step_ms: seconds of the window without evaluations and checkpoints, by its steps.
      collectives: (instruction, device, start, end), in Unix seconds.
      operations, named: those of the window's training, and the row of each.
      groups: {instruction: which devices exchange with each other}; a collective of all has none.
    """

    rows: list[Row]
    step_ms: float
    collectives: list[tuple[str, int, float, float]]
    operations: Intervals
    named: list[Name]
    groups: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)


def make_table(
    trace: Trace,
    programs: Mapping[int, Program],
    *,
    begin: float,
    end: float,
    steps: int,
    blocks: frozenset[str] = frozenset(),
    flops: Mapping[str, float] | None = None,
    examples: float = 0.0,
    peak: float = 0.0,
    training_thread: int | None = None,
) -> Table:
    """The rows of a window, in order of self time.

    Args:
      programs: id -> program, of those that ran.
      begin, end: in seconds of the trace.
      blocks: names of the model's blocks.
      flops: `forward_flops` of the model; examples: of one step, on this process.
      peak: operations a second of a large matrix product; 0 where it was not measured.
      training_thread: whose spans are waited for; None: every thread's are, as on a server.
    """
    operations, spans = trace.operations.within(begin, end), trace.spans.within(begin, end)
    own = np.array([training_thread is None or t == training_thread for t in spans.thread], bool)
    away = own & np.array([what in AWAY for what in spans.what], bool)
    operations = _chosen(operations, ~_inside(operations, _chosen(spans, away)))
    names = _Names(programs, blocks)
    named = [names.of(what) for what in operations.what]
    is_wrapper = np.array([names.is_wrapper(what) for what in operations.what], bool)
    is_collective = np.array([name.kind in COLLECTIVES for name in named], bool)
    waits = own & np.array([what in _WAITS for what in spans.what], bool)
    steps_own = np.array([what == profiler.STEP for what in spans.what], bool)
    others = ~own & np.array([what in _OTHER_THREADS for what in spans.what], bool)
    span_names = [Name(what, "", "") for what in spans.what]
    levels: list[tuple[Intervals, list[Name]]] = [
        _level(spans, away, span_names),
        _level(operations, ~is_wrapper & ~is_collective, named),
        _level(operations, is_collective, named),
        _level(operations, is_wrapper, named),
        _level(spans, own & ~away & ~waits & ~steps_own, span_names),
        _level(spans, others, span_names),
        _all(trace.runtime.within(begin, end), EXECUTOR),
        _level(spans, waits, span_names),
        _all(trace.dispatch.within(begin, end), profiler.DISPATCH),
        _level(spans, steps_own, span_names),
    ]
    found, rest = self_times([(level.start, level.end) for level, _ in levels], begin, end)
    self_seconds: dict[Name, float] = collections.defaultdict(float)
    for (_, level_names), seconds in zip(levels, found, strict=True):
        for name, one in zip(level_names, seconds, strict=True):
            self_seconds[name] += one
    left = NOT_ATTRIBUTED if training_thread is not None else IDLE
    self_seconds[Name(left, "", "")] += rest
    intervals = _grouped(levels, spans)
    training = end - begin - float(found[0].sum())
    work = _work(operations, named, names, is_wrapper)
    rows = [
        _row(
            name, seconds, intervals.get(name), work.get(name, (0.0, 0.0)), steps, training, flops or {}, examples, peak
        )
        for name, seconds in self_seconds.items()
    ]
    rows += [
        _row(name, 0.0, one, (0.0, 0.0), steps, training, {}, 0.0, 0.0)
        for name, one in intervals.items()
        if name not in self_seconds
    ]
    collected = [
        (what.instruction, what.device, start + trace.unix_time, stop + trace.unix_time)
        for what, start, stop, chosen in zip(
            operations.what, operations.start, operations.end, is_collective, strict=True
        )
        if chosen
    ]
    collecting = {what for what, chosen in zip(operations.what, is_collective, strict=True) if chosen}
    return Table(
        sorted(rows, key=lambda row: -row.self_ms),
        1e3 * training / steps,
        collected,
        operations,
        named,
        names.groups_of(collecting),
    )


class _Names:
    """Names of instructions, each found once."""

    def __init__(self, programs: Mapping[int, Program], blocks: frozenset[str]) -> None:
        self.programs, self._blocks = programs, blocks
        self._found: dict[tuple[int, str], Name] = {}

    def of(self, what: Any) -> Name:
        key = (what.program, what.instruction)
        if key not in self._found:
            program = self.programs.get(what.program)
            known = program is not None and what.instruction in program
            self._found[key] = (
                name_of(program, what.instruction, self._blocks)  # type: ignore[arg-type]
                if known
                else Name(UNKNOWN, "", "")
            )
        return self._found[key]

    def groups_of(self, collectives: Iterable[Any]) -> dict[str, list[list[int]]]:
        found = {}
        for what in collectives:
            inside = self.programs[what.program].inside(what.instruction)
            found[what.instruction] = next((groups for one in inside if (groups := replica_groups(one))), [])
        return {instruction: groups for instruction, groups in found.items() if len(groups) > 1}

    def is_wrapper(self, what: Any) -> bool:
        program = self.programs.get(what.program)
        if program is None or what.instruction not in program:
            return what.instruction.partition(".")[0] in WRAPPERS
        return program[what.instruction].opcode in WRAPPERS


def _inside(intervals: Intervals, others: Intervals) -> np.ndarray:
    """Which begin while one of the others is under way."""
    found = np.zeros(len(intervals), bool)
    for start, end in zip(others.start, others.end, strict=True):
        found |= (intervals.start >= start) & (intervals.start < end)
    return found


def _chosen(intervals: Intervals, which: np.ndarray) -> Intervals:
    at = np.flatnonzero(which) if len(intervals) else np.array([], int)
    return Intervals(
        intervals.start[at], intervals.end[at], [intervals.what[k] for k in at], [intervals.thread[k] for k in at]
    )


def _level(intervals: Intervals, which: np.ndarray, names: Sequence[Name]) -> tuple[Intervals, list[Name]]:
    at = np.flatnonzero(which) if len(intervals) else np.array([], int)
    return _chosen(intervals, which), [names[k] for k in at]


def _all(intervals: Intervals, name: str) -> tuple[Intervals, list[Name]]:
    return intervals, [Name(name, "", "")] * len(intervals)


def _grouped(levels: Sequence[tuple[Intervals, list[Name]]], spans: Intervals) -> dict[Name, tuple[Any, Any]]:
    """Name -> (starts, ends) of all its calls, whoever's time they were."""
    found: dict[Name, list[tuple[float, float]]] = collections.defaultdict(list)
    for number, (level, names) in enumerate(levels):
        if number in (1, 2, 3, 6, 8):  # the others are spans: below, with those that nobody waited for
            for name, start, end in zip(names, level.start, level.end, strict=True):
                found[name].append((start, end))
    for what, start, end in zip(spans.what, spans.start, spans.end, strict=True):
        found[Name(what, "", "")].append((start, end))
    return {name: tuple(np.array(pairs).T) for name, pairs in found.items()}  # type: ignore[misc]


def _work(
    operations: Intervals, named: Sequence[Name], names: _Names, is_wrapper: np.ndarray
) -> dict[Name, tuple[float, float]]:
    """Name -> (operations of matrix products and convolutions, bytes), all calls together."""
    of_one: dict[tuple[int, str], tuple[float, float]] = {}
    found: dict[Name, tuple[float, float]] = {}
    for what, name, wraps in zip(operations.what, named, is_wrapper, strict=True):
        key = (what.program, what.instruction)
        if wraps or name.kind == UNKNOWN:
            continue
        if key not in of_one:
            program = names.programs[what.program]
            of_one[key] = program.flops_of(what.instruction), float(program.bytes_of(what.instruction))
        before = found.get(name, (0.0, 0.0))
        found[name] = before[0] + of_one[key][0], before[1] + of_one[key][1]
    return found


def _row(
    name: Name,
    seconds: float,
    intervals: tuple[Any, Any] | None,
    work: tuple[float, float],
    steps: int,
    training: float,
    flops: Mapping[str, float],
    examples: float,
    peak: float,
) -> Row:
    operations = work[0] / steps
    if name.kind in _BY_DEFINITION and name.layer in flops and examples:  # or a part of it, where channels are divided
        operations = min(operations, flops[name.layer] * examples)
    wall = wall_time(*intervals) / steps if intervals is not None else seconds / steps
    rate = operations / wall if wall > 0 else 0.0
    return Row(
        *name,
        calls=round(len(intervals[0]) / steps, 3) if intervals is not None else 0.0,
        self_ms=1e3 * seconds / steps,
        wall_ms=1e3 * wall,
        share=seconds / training if training > 0 and name.kind not in AWAY else 0.0,
        gflop=operations / 1e9,
        gflops_per_second=rate / 1e9,
        share_of_peak=rate / peak if peak else 0.0,
        megabytes=work[1] / steps / 1e6,
    )
