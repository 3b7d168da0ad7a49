"""The measurement `sharding` of tools/bench.py: what dividing the state costs and saves, beside plain all-reduce.

N processes of one core each train the same model on the same global batch; the sides take turns:

    allreduce        the state on every process; BatchNorm per replica
    allreduce_sync   the same with BatchNorm over the global batch, as the following have it
    zero1, fsdp      the optimizer's state, or all state, in shares
    fsdp_replicas    fsdp with BatchNorm per replica: against allreduce and PyTorch's FSDP2, which have it so
    model            channels divided (strategy.mesh='model:N')
    jit              the global program, batch divided (strategy.spmd='jit')
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import bench_worker
from bench_train import Group, spread

SIDES: dict[str, dict[str, Any]] = {
    "allreduce": {"name": "allreduce"},
    "allreduce_sync": {"name": "allreduce", "sync_batch_norm": True},
    "zero1": {"name": "model_parallel", "shard_params": "zero1"},
    "fsdp": {"name": "model_parallel", "shard_params": "fsdp"},
    "fsdp_replicas": {"name": "model_parallel", "shard_params": "fsdp", "sync_batch_norm": False},
    "model": {"name": "model_parallel", "mesh": "model:{processes}"},
    "jit": {"name": "allreduce", "spmd": "jit"},
}


def measure(
    model: str, batch: int, processes: int, sides: Sequence[str], pairs: int, data: str, port: Callable[[], int]
) -> dict[str, Any]:
    """One line of results; `batch` is each process's. All sides are in memory at once, 1.5 to 2 GB a process."""
    unknown = sorted(set(sides) - set(SIDES))
    if unknown:
        raise SystemExit(f"--sides: there is no {unknown[0]!r}; there are {', '.join(SIDES)}.")
    sides = list(dict.fromkeys(["allreduce", *sides]))
    cores = sorted(os.sched_getaffinity(0))
    reported: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        groups: list[Group] = []
        try:
            for side in sides:
                settings = SIDES[side]
                filled = {k: v.format(processes=processes) if isinstance(v, str) else v for k, v in settings.items()}
                own = bench_worker.arguments(model, batch * processes, processes, data, filled, collectives=True)
                groups.append(Group(side, folder, f"127.0.0.1:{port()}", cores, own, script=bench_worker.__file__))
                groups[-1].hear()
            steps = max(3, round(2.0 / groups[0].run(2)))
            times = []
            for number in range(pairs + 1):
                order = groups if number % 2 else groups[::-1]
                times.append({group.side: group.run(steps) for group in order})
            del times[0]
            for group in groups:
                for worker in group.workers:
                    print("facts", file=worker.stdin, flush=True)
                reported[group.side] = group.hear()
        finally:
            for group in groups:
                group.close()
    line: dict[str, Any] = {"bench": "sharding", "model": model, "batch": batch, "processes": processes, "data": data}
    for side in sides:
        every = reported[side]
        line[side] = {
            "images_per_second": spread([batch * processes / pair[side] for pair in times]),
            "against_allreduce": spread([pair["allreduce"] / pair[side] for pair in times]),
            "param_mb": [round(one["params_bytes"] / 1e6, 3) for one in every],
            "optimizer_mb": [round(one["opt_state_bytes"] / 1e6, 3) for one in every],
            "peak_memory_mb": [round(one["peak_bytes"] / 1e6) for one in every],
            "collectives": sum(total["count"] for total in every[0]["collectives"].values()),
            "sent_mb": round(sum(total["bytes_sent"] for total in every[0]["collectives"].values()) / 1e6, 3),
        }
    return line
