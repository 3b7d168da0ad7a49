"""A chain of blocks cut into stages so that the slowest stage is as fast as can be; exact, by dynamic programming."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_SLACK = 1 + 1e-9  # sums in different orders


def stage_costs(balance: Sequence[int], costs: Sequence[float], cut_costs: Sequence[float] = ()) -> list[float]:
    """The cost of each stage: its blocks', and that of the cuts at its two ends.

    Args:
      balance: number of blocks of each stage, in order.
      costs: of each of the n blocks.
      cut_costs: of each of the n - 1 places between them; counted on both sides.
    """
    cuts = [0.0, *(cut_costs or [0.0] * (len(costs) - 1)), 0.0]  # [i]: before block i
    ends = [0, *itertools.accumulate(balance)]
    return [sum(costs[i:j]) + cuts[i] + cuts[j] for i, j in itertools.pairwise(ends)]


def partition(costs: Sequence[float], num_stages: int, cut_costs: Sequence[float] = ()) -> tuple[int, ...]:
    """The balance (blocks of each stage) whose slowest stage is fastest; among those, the cheapest cuts.

    Arguments as `stage_costs` takes them. O(num_stages * n^2).

    Raises:
      ValueError: fewer blocks than stages, or no stage at all.
    """
    n = len(costs)
    if not 1 <= num_stages <= n:
        raise ValueError(f"{n} blocks cannot be cut into {num_stages} stages.")
    cuts = [0.0, *(cut_costs or [0.0] * (n - 1)), 0.0]
    before = [0.0, *itertools.accumulate(costs)]

    def cost(i: int, j: int) -> float:
        return before[j] - before[i] + cuts[i] + cuts[j]

    # slowest[j]: of the best cut of blocks 0..j-1 into so many stages as have been looked at.
    slowest = [0.0] + [float("inf")] * n
    for _ in range(num_stages):
        slowest = [min((max(slowest[i], cost(i, j)) for i in range(j)), default=float("inf")) for j in range(n + 1)]
    bound = slowest[n] * _SLACK
    # The cheapest cuts of which no stage is slower: (sum of the cuts, where they are).
    best: list[tuple[float, tuple[int, ...]] | None] = [(0.0, ())] + [None] * n
    for _ in range(num_stages):
        best = [
            min(
                (
                    (found[0] + cuts[i], (*found[1], j - i))
                    for i in range(j)
                    if (found := best[i]) is not None and cost(i, j) <= bound
                ),
                default=None,
            )
            for j in range(n + 1)
        ]
    chosen = best[n]
    assert chosen is not None
    return chosen[1]
