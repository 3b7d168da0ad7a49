"""Branches side by side: which stages a graph of blocks makes, and on which process each is.

    optical -> stem_o -> deep_o --+                     process 0   stem_o deep_o
                                  +--> merge -> head    process 1   stem_r deep_r, merge head
    radar   -> stem_r -> deep_r --+

A *segment* is blocks in a row that nothing enters or leaves in between. Each is a stage, or several in a row where that
is better; all ways to put the stages on the processes are tried, by simulating a step. What crosses between processes
goes over once each way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from jaxdist.cost.balance import BYTES_PER_SECOND, Plan, depths, described, edge_bytes
from jaxdist.cost.blocks import BlockCost
from jaxdist.models import Graph
from jaxdist.parallel.partition import partition
from jaxdist.parallel.schedules import SCHEDULES_OF, simulate_graph

MOST_STAGES = 8
_MOST_TRIALS = 2500
_MOST_MICROBATCHES = 6  # that are simulated: more change the time of a step, not the order of the ways


def segments(model: Graph) -> list[tuple[str, ...]]:
    """Of the graph, each after those that it is given something by."""
    found: list[list[str]] = []
    of: dict[str, int] = {}
    for name in model.names:
        before = model.blocks_before(name)
        if len(before) == 1 and len(model.users_of[before[0]]) == 1:
            of[name] = of[before[0]]
            found[of[name]].append(name)
        else:
            of[name] = len(found)
            found.append([name])
    order = sorted(found, key=lambda names: model.names.index(names[-1]))
    return [tuple(names) for names in order]


def plan_branches(
    costs: Sequence[BlockCost],
    model: Graph,
    *,
    num_processes: int,
    num_microbatches: int,
    schedule: str,
    remat: bool,
) -> Plan:
    """The stages and places whose step is shortest; of equally short ones, those of which least crosses.

    Of few blocks all ways are tried; of many the segments, whole and in pieces of equal times, and then blocks are
    moved to other processes, one or two at a time, as long as that makes it better.
    """
    rated: dict[tuple[int, ...], tuple[float, int, int]] = {}

    def rate(ways: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        """The best of all that were looked at; `ways`: of each block, the process that it is on."""
        for way in ways:
            if way not in rated:
                stages, processes = _merged(model, way)
                seconds, crossing = step_seconds(costs, model, stages, processes, num_microbatches, schedule)
                rated[way] = (round(seconds, 12), crossing, len(stages))
        return min(rated, key=lambda way: (rated[way], way))

    processes = min(num_processes, len(model.names))
    if _count(len(model.names), processes) <= _MOST_TRIALS:
        best = rate(_assignments(len(model.names), processes))
    else:
        best = rate(itertools.islice(_by_segments(costs, model, processes), _MOST_TRIALS // 2))
        before = None
        while before != best and len(rated) < _MOST_TRIALS:
            before = best
            best = rate(_moved(best, 1, processes))
            if best == before:  # no block alone makes it better
                best = rate(itertools.islice(_moved(best, 2, processes), _MOST_TRIALS - len(rated)))
    stages, places = _merged(model, best)
    return described(costs, model, stages, places, num_microbatches=num_microbatches, schedule=schedule, remat=remat)


def _count(blocks: int, processes: int) -> int:
    return processes ** (blocks - 1)


def _moved(way: tuple[int, ...], count: int, processes: int) -> Iterator[tuple[int, ...]]:
    """Ways that differ in the places of `count` blocks, and use all processes."""
    for places in itertools.combinations(range(len(way)), count):
        for others in itertools.product(range(processes), repeat=count):
            moved = list(way)
            for place, other in zip(places, others, strict=True):
                moved[place] = other
            if set(moved) == set(range(processes)):
                yield tuple(moved)


def _merged(model: Graph, way: Sequence[int]) -> tuple[list[tuple[str, ...]], tuple[int, ...]]:
    """(stages, the process of each): blocks in a row on one process are one stage."""
    of = dict(zip(model.names, way, strict=True))
    found: list[tuple[tuple[str, ...], int]] = []
    for names in segments(model):
        found += [(tuple(own), process) for process, own in itertools.groupby(names, key=lambda name: of[name])]
    found.sort(key=lambda stage: model.names.index(stage[0][-1]))
    return [names for names, _ in found], tuple(process for _, process in found)


def _by_segments(costs: Sequence[BlockCost], model: Graph, num_processes: int) -> Iterator[tuple[int, ...]]:
    """Ways that keep segments whole, or in pieces of equal times."""
    for stages in _cuts(costs, model, num_processes):
        for processes in _assignments(len(stages), num_processes):
            of = {name: process for names, process in zip(stages, processes, strict=True) for name in names}
            yield tuple(of[name] for name in model.names)


def step_seconds(
    costs: Sequence[BlockCost],
    model: Graph,
    stages: Sequence[Sequence[str]],
    processes: Sequence[int],
    num_microbatches: int,
    schedule: str,
) -> tuple[float, int]:
    """(what a step takes by simulation, bytes of a microbatch that cross between processes, one way)."""
    bytes_of = edge_bytes(costs, model, stages)
    times = {cost.name: _seconds(cost) for cost in costs}
    forward, backward = ([sum(times[name][k] for name in names) for names in stages] for k in (0, 1))
    table = SCHEDULES_OF[schedule](depths(bytes_of, len(stages)), min(num_microbatches, _MOST_MICROBATCHES))
    transfer = {edge: count / BYTES_PER_SECOND for edge, count in bytes_of.items()}
    spans = simulate_graph(table, forward, backward, transfer, processes)
    crossing = sum(count for (a, b), count in bytes_of.items() if processes[a] != processes[b])
    return max(span.end for row in spans for span in row), crossing


def _seconds(cost: BlockCost) -> tuple[float, float]:
    """Forward and backward; in proportion to bytes where nothing was measured."""
    if cost.forward is not None and cost.backward is not None:
        return cost.forward, cost.backward
    weight = (cost.param_bytes + cost.saved_bytes) / BYTES_PER_SECOND
    return weight, 2 * weight


def _cuts(costs: Sequence[BlockCost], model: Graph, num_processes: int) -> Iterator[list[tuple[str, ...]]]:
    """Lists of stages: the segments as they are, then with some of them in pieces."""
    own = segments(model)
    by_name = {cost.name: cost for cost in costs}
    limits = [min(len(names), num_processes) for names in own]
    fewest, most = min(num_processes, len(model.names)), max(MOST_STAGES, len(own), num_processes)
    for counts in itertools.chain.from_iterable(_counts(limits, total) for total in range(fewest, most + 1)):
        stages: list[tuple[str, ...]] = []
        for names, count in zip(own, counts, strict=True):
            seconds = [sum(_seconds(by_name[name])) for name in names]
            cuts = [2 * by_name[name].output_bytes / BYTES_PER_SECOND for name in names[:-1]]
            ends = [0, *itertools.accumulate(partition(seconds, count, cuts))]
            stages += [names[i:j] for i, j in itertools.pairwise(ends)]
        yield sorted(stages, key=lambda names: model.names.index(names[-1]))


def _counts(limits: Sequence[int], total: int) -> Iterator[tuple[int, ...]]:
    """Numbers from 1 to their limits with this sum, one way after the other: all together may be too many."""
    if not limits:
        if total == 0:
            yield ()
        return
    first, others = limits[0], limits[1:]
    for number in range(max(1, total - sum(others)), min(first, total - len(others)) + 1):
        for rest in _counts(others, total - number):
            yield (number, *rest)


def _assignments(num_stages: int, num_processes: int) -> Iterator[tuple[int, ...]]:
    """Every way that uses all processes, up to their names: a process is first used after those of lower number."""

    def extend(chosen: tuple[int, ...], used: int) -> Iterator[tuple[int, ...]]:
        if len(chosen) == num_stages:
            if used == min(num_processes, num_stages):
                yield chosen
            return
        if num_stages - len(chosen) < min(num_processes, num_stages) - used:  # too few are left for the others
            return
        for process in range(min(used + 1, num_processes)):
            yield from extend((*chosen, process), max(used, process + 1))

    yield from extend((), 0)
