"""Which blocks make a stage: as the user says, or so that the slowest stage is as fast as can be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxdist.cost.blocks import BlockCost
from jaxdist.models import Graph
from jaxdist.parallel.partition import partition
from jaxdist.parallel.schedules import SCHEDULES_OF, Schedule, bubble, predicted_bubble, simulate_graph

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


def given_bytes(costs: Sequence[BlockCost], model: Graph, names: Sequence[str]) -> int:
    """Of what a stage of these blocks is given by others, for a microbatch."""
    size = {cost.name: cost.output_bytes for cost in costs}
    return sum(size[name] for name in model.between(names)[0])


def edge_bytes(costs: Sequence[BlockCost], model: Graph, stages: Sequence[Sequence[str]]) -> dict[tuple[int, int], int]:
    """Of what crosses each edge between stages, for a microbatch."""
    size = {cost.name: cost.output_bytes for cost in costs}
    return {edge: sum(size[name] for name in names) for edge, names in edges_of(model, stages).items()}


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
    crossing = edge_bytes(costs, model, stages)
    if remat:
        kept = [given_bytes(costs, model, names) for names in stages]
    else:
        kept = [sum(cost.saved_bytes for cost in own) for own in of_stages]
    predicted: dict[str, Any] = {
        "cut_bytes": [*crossing.values()],
        "sent_bytes": [sum(size for (a, _), size in crossing.items() if a == s) for s in range(len(stages))],
        "param_bytes": [sum(c.param_bytes for c in stage) for stage in of_stages],
        "kept_bytes_per_microbatch": kept,
        "bubble_of_equal_stages": round(bubble(len(stages), num_microbatches), 4),
    }
    if all(cost.forward is not None for cost in costs):
        forward, backward = (
            [sum(getattr(c, kind) or 0.0 for c in stage) for stage in of_stages] for kind in ("forward", "backward")
        )
        table = SCHEDULES_OF[schedule](depths(crossing, len(stages)), num_microbatches)
        seconds = {edge: size / BYTES_PER_SECOND for edge, size in crossing.items()}
        spans = simulate_graph(table, forward, backward, seconds, processes)
        predicted |= {
            "forward_ms": [round(1000 * s, 3) for s in forward],
            "backward_ms": [round(1000 * s, 3) for s in backward],
            "bubble": round(predicted_bubble(spans, max(processes, default=-1) + 1), 4),
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
