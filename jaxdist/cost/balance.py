"""Which blocks make a stage: as the user says, or so that the slowest stage is as fast as can be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxdist.cost.blocks import BlockCost
from jaxdist.models import Graph
from jaxdist.parallel.partition import partition
from jaxdist.parallel.schedules import SCHEDULES_OF, Schedule, bubble, simulate_graph

BYTES_PER_SECOND = 1e9  # over a cut, both ends' work on it included: loopback's is near it, a network's is lower


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages and what is to be expected of them.

    Attributes:
      stages: the blocks of each; each comes after those whose outputs it is given.
      predicted: for the log and the summary.
      dtypes: block -> of its activations.
      processes: of a replica, on which each stage is; (): they are dealt out in order.
    """

    stages: tuple[tuple[str, ...], ...]
    predicted: Mapping[str, Any]
    dtypes: Mapping[str, Any]
    processes: tuple[int, ...] = ()

    @property
    def balance(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(map(len, self.stages))

    def edges(self, model: Graph) -> dict[tuple[int, int], tuple[str, ...]]:
        """{(stage, a later stage that is given something by it): blocks whose outputs cross}, in order."""
        return edges_of(model, self.stages)

    def parents(self, model: Graph) -> dict[int, int]:
        """Stage -> the next on its way to the last, which has none."""
        found: dict[int, int] = {}
        for before, after in self.edges(model):
            found.setdefault(before, after)
        return found

    def schedule(self, model: Graph, name: str, num_microbatches: int) -> Schedule:
        """The order of work of each stage."""
        return SCHEDULES_OF[name](depths(self.edges(model), len(self.stages)), num_microbatches)


def edges_of(model: Graph, stages: Sequence[Sequence[str]]) -> dict[tuple[int, int], tuple[str, ...]]:
    """As `Plan.edges`."""
    stage_of = {name: s for s, names in enumerate(stages) for name in names}
    found: dict[tuple[int, int], list[str]] = {}
    for name in model.names:
        for after in sorted({stage_of[user] for user in model.users_of[name]} - {stage_of[name]}):
            found.setdefault((stage_of[name], after), []).append(name)
    return {edge: tuple(found[edge]) for edge in sorted(found)}


def depths(edges: Iterable[tuple[int, int]], num_stages: int) -> list[int]:
    """Of each stage the most edges on a way to the last."""
    found = [0] * num_stages
    for before, after in sorted(edges, reverse=True):  # an edge leads to a higher number
        found[before] = max(found[before], found[after] + 1)
    return found


def plan(
    costs: Sequence[BlockCost],
    model: Graph,
    *,
    balance: Sequence[int],
    num_stages: int,
    num_microbatches: int,
    schedule: str,
    remat: bool,
) -> Plan:
    """Consecutive blocks: the balance given, or the best by the times of `costs` where they have any, else by bytes."""
    cuts = cut_bytes(costs, model)
    timed = all(cost.forward is not None for cost in costs)
    if not balance:
        if timed:
            seconds = [(c.forward or 0.0) + (c.backward or 0.0) for c in costs]
            balance = partition(seconds, num_stages, [2 * cut / BYTES_PER_SECOND for cut in cuts])
        else:
            balance = partition([float(c.param_bytes + c.saved_bytes) for c in costs], num_stages, cuts)
    ends = [0, *itertools.accumulate(balance)]
    stages = [tuple(model.names[i:j]) for i, j in itertools.pairwise(ends)]
    return described(costs, model, stages, (), num_microbatches=num_microbatches, schedule=schedule, remat=remat)


def cut_bytes(costs: Sequence[BlockCost], model: Graph) -> list[int]:
    """Of what crosses between each block and the next in order."""
    size = {cost.name: cost.output_bytes for cost in costs}
    place = {name: i for i, name in enumerate(model.names)}
    last = {name: max((place[user] for user in model.users_of[name]), default=-1) for name in model.names}
    return [sum(size[n] for n in model.names[: i + 1] if last[n] > i) for i in range(len(costs) - 1)]


def described(
    costs: Sequence[BlockCost],
    model: Graph,
    stages: Sequence[tuple[str, ...]],
    processes: Sequence[int],
    *,
    num_microbatches: int,
    schedule: str,
    remat: bool,
) -> Plan:
    """A plan of these stages, with what is to be expected of it."""
    by_name = {cost.name: cost for cost in costs}
    of_stages = [[by_name[name] for name in names] for names in stages]
    edges = edges_of(model, stages)
    crossing = [sum(by_name[name].output_bytes for name in names) for names in edges.values()]
    table = SCHEDULES_OF[schedule](depths(edges, len(stages)), num_microbatches)
    given = [sum(by_name[name].output_bytes for name in model.between(names)[0]) for names in stages]
    kept = [
        max(own[0].input_bytes, came) if remat else sum(cost.saved_bytes for cost in own)
        for own, came in zip(of_stages, given, strict=True)
    ]
    sent = [sum(size for edge, size in zip(edges, crossing, strict=True) if edge[0] == s) for s in range(len(stages))]
    predicted: dict[str, Any] = {
        "cut_bytes": crossing,
        "sent_bytes": sent,
        "param_bytes": [sum(c.param_bytes for c in stage) for stage in of_stages],
        "kept_bytes_per_microbatch": kept,
        "bubble_of_equal_stages": round(bubble(len(stages), num_microbatches), 4),
    }
    if all(cost.forward is not None for cost in costs):
        forward, backward = (
            [sum(getattr(c, kind) or 0.0 for c in stage) for stage in of_stages] for kind in ("forward", "backward")
        )
        seconds = {edge: size / BYTES_PER_SECOND for edge, size in zip(edges, crossing, strict=True)}
        spans = simulate_graph(table, forward, backward, seconds, processes)
        busy = [0.0] * (max(processes) + 1 if processes else len(stages))
        for stage, (f, b) in enumerate(zip(forward, backward, strict=True)):
            busy[processes[stage] if processes else stage] += num_microbatches * (f + b)
        whole = max(span.end for row in spans for span in row)
        predicted |= {
            "forward_ms": [round(1000 * s, 3) for s in forward],
            "backward_ms": [round(1000 * s, 3) for s in backward],
            "bubble": round(1 - sum(busy) / (len(busy) * whole), 4),
        }
    dtypes = {cost.name: cost.output_dtype for cost in costs}
    return Plan(tuple(map(tuple, stages)), predicted, dtypes, tuple(processes))


def describe(plan: Plan) -> str:
    """One line a stage, for the log."""
    lines = []
    for s, names in enumerate(plan.stages):
        predicted = plan.predicted
        where = f" on process {plan.processes[s]}" if plan.processes else ""
        blocks = f"{len(names)} blocks, {names[0]} to {names[-1]}" if len(names) > 1 else f"block {names[0]}"
        line = f"stage {s}{where}: {blocks}; "
        if "forward_ms" in predicted:
            line += f"{predicted['forward_ms'][s]:.1f} + {predicted['backward_ms'][s]:.1f} ms a microbatch; "
        line += f"parameters {predicted['param_bytes'][s] / 1e6:.2f} MB"
        if s < len(plan.stages) - 1:
            line += f"; {predicted['sent_bytes'][s] / 1e6:.2f} MB a microbatch to those after it"
        lines.append(line)
    key = "bubble" if "bubble" in plan.predicted else "bubble_of_equal_stages"
    return "\n".join([*lines, f"predicted bubble {100 * plan.predicted[key]:.1f} %"])
