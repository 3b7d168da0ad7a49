"""What an algorithm has to send and receive in a step, in bytes, on each host: the yardstick of `bench_links.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

# What fsdp and zero1 do not divide (strategy.shard_threshold).
THRESHOLD = 1024


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Of a model in memory: its parameters, those among them that are never divided, its BatchNorm statistics."""

    params: int
    small: int = 0
    stats: int = 0


def bytes_of(shapes: dict[str, tuple[Any, Any]]) -> Bytes:
    """From `Graph.shapes`, in float32."""
    import jax

    sizes = [[4 * leaf.size for pair in shapes.values() for leaf in jax.tree.leaves(pair[k])] for k in (0, 1)]
    return Bytes(sum(sizes[0]), sum(size for size in sizes[0] if size < 4 * THRESHOLD), sum(sizes[1]))


def needed(strategy: str, hosts: int, model: Bytes, stages: Sequence[int] | None = None) -> list[tuple[float, float]]:
    """(sent, received) of each worker's host, and of the server's where there is one.

    `stages`: of a pipeline, the bytes that each stage sends.

        allreduce    a ring: 2(n-1)/n of parameters and statistics
        fsdp         two all-gathers and a reduce-scatter: 3(n-1)/n of what is divided, a ring for the rest
        zero1        a reduce-scatter and an all-gather: as allreduce
        server_*     gradients and statistics to the server, parameters and statistics back
        pipeline     what a stage sends to its neighbours comes back from them as large: activations and gradients
        torch        a ring for the gradients; process 0 sends its statistics to the others

    Raises:
      ValueError: no such strategy.
    """
    share, each = (hosts - 1) / hosts, 0.0
    if strategy == "pipeline":
        return [(float(sent), float(sent)) for sent in stages or [0] * hosts]
    if strategy.startswith("server_"):
        each += model.params + model.stats
        return [(each, each)] * hosts + [(hosts * each, hosts * each)]
    if strategy == "torch":  # a tree or a chain: only the sum over the hosts is known
        ring, mean = 2 * share * model.params, share * model.stats
        return [(ring + mean, ring + mean)] * hosts
    rings = {"allreduce": 2.0, "zero1": 2.0, "fsdp": 3.0}
    if strategy not in rings:
        raise ValueError(f"there is no strategy {strategy!r}")
    each = share * (rings[strategy] * (model.params - model.small) + 2 * (model.small + model.stats))
    return [(each, each)] * hosts


def excess(measured: Sequence[float], wanted: Sequence[float]) -> float:
    """Percent above what is needed, over all hosts."""
    return round(100 * (sum(measured) / sum(wanted) - 1), 1) if sum(wanted) else 0.0
