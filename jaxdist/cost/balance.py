"""Which blocks make a stage: as the user says, or so that the slowest stage is as fast as can be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.cost.blocks import BlockCost
from jaxdist.parallel.partition import partition
from jaxdist.parallel.schedules import SCHEDULES, bubble, predicted_bubble, simulate

_BYTES_PER_SECOND = 1e9  # over a cut, both ends' work on it included: loopback's is near it, a network's is lower


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages and what is to be expected of them."""

    balance: tuple[int, ...]
    predicted: Mapping[str, Any]
    dtypes: Mapping[str, Any]  # block -> of its activations


def plan(
    costs: Sequence[BlockCost],
    *,
    balance: Sequence[int],
    num_stages: int,
    num_microbatches: int,
    schedule: str,
    remat: bool,
) -> Plan:
    """The balance given, or the best by the times of `costs` where they have any, by bytes otherwise."""
    cuts = [cost.output_bytes for cost in costs[:-1]]
    timed = all(cost.forward is not None for cost in costs)
    if not balance:
        if timed:
            seconds = [(c.forward or 0.0) + (c.backward or 0.0) for c in costs]
            balance = partition(seconds, num_stages, [2 * cut / _BYTES_PER_SECOND for cut in cuts])
        else:
            balance = partition([float(c.param_bytes + c.saved_bytes) for c in costs], num_stages, cuts)
    ends = [0, *itertools.accumulate(balance)]
    stages = [costs[i:j] for i, j in itertools.pairwise(ends)]
    crossing = [cuts[e - 1] for e in ends[1:-1]]
    predicted: dict[str, Any] = {
        "cut_bytes": crossing,
        "param_bytes": [sum(c.param_bytes for c in stage) for stage in stages],
        "kept_bytes_per_microbatch": [
            stage[0].input_bytes if remat else sum(c.saved_bytes for c in stage) for stage in stages
        ],
        "bubble_of_equal_stages": round(bubble(len(balance), num_microbatches), 4),
    }
    if timed:
        forward = [sum(c.forward or 0.0 for c in stage) for stage in stages]
        backward = [sum(c.backward or 0.0 for c in stage) for stage in stages]
        table = SCHEDULES[schedule](len(balance), num_microbatches)
        spans = simulate(table, forward, backward, [cut / _BYTES_PER_SECOND for cut in crossing])
        predicted |= {
            "forward_ms": [round(1000 * s, 3) for s in forward],
            "backward_ms": [round(1000 * s, 3) for s in backward],
            "bubble": round(predicted_bubble(spans), 4),
        }
    return Plan(tuple(balance), predicted, {cost.name: cost.output_dtype for cost in costs})


def describe(plan: Plan, costs: Sequence[BlockCost]) -> str:
    """One line a stage, for the log."""
    lines, at = [], 0
    for s, size in enumerate(plan.balance):
        predicted = plan.predicted
        line = f"stage {s}: {size} blocks, {costs[at].name} to {costs[at + size - 1].name}; "
        if "forward_ms" in predicted:
            line += f"{predicted['forward_ms'][s]:.1f} + {predicted['backward_ms'][s]:.1f} ms a microbatch; "
        line += f"parameters {predicted['param_bytes'][s] / 1e6:.2f} MB"
        if s < len(plan.balance) - 1:
            line += f"; {predicted['cut_bytes'][s] / 1e6:.2f} MB a microbatch to the next"
        lines.append(line)
        at += size
    key = "bubble" if "bubble" in plan.predicted else "bubble_of_equal_stages"
    return "\n".join([*lines, f"predicted bubble {100 * plan.predicted[key]:.1f} %"])
