"""The measurement `pipeline` of tools/bench.py: stages on cores of their own against the whole model on one core.

Every side trains the same model on the same global batch. The sides stay alive and take turns, so that only one runs at
a time:

    single            one process, one core
    accumulate=M      the same in microbatches: what the pipeline computes, to the last bit of BatchNorm
    apart             K such runs at once, one core each: how much busy cores hold each other up
    gpipe, 1f1b       K processes of one stage and one core each
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import bench_worker
from bench_train import Group, spread

SINGLE, APART = "single", "apart"


def measure(
    model: str, batch: int, stages: int, microbatches: int, remat: bool, pairs: int, data: str, port: Callable[[], int]
) -> dict[str, Any]:
    """One line of results; `batch` is the global one."""
    cores = sorted(os.sched_getaffinity(0))
    sides = [SINGLE, f"accumulate={microbatches}", APART, "gpipe", "1f1b"]
    reported: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        groups: list[Group] = []
        try:
            for side in sides:
                processes = stages if side in (APART, "gpipe", "1f1b") else 1
                settings = {"name": "single", "accumulate": microbatches if side != SINGLE else 1}
                if side in ("gpipe", "1f1b"):
                    settings = {"name": "pipeline", "num_microbatches": microbatches, "remat": remat}
                    settings["pipeline_schedule"] = side
                own = cores if processes > 1 else cores[:1]
                arguments = bench_worker.arguments(
                    model, batch, processes, data, settings, collectives=False, apart=side == APART
                )
                groups.append(Group(side, folder, f"127.0.0.1:{port()}", own, arguments, script=bench_worker.__file__))
                reported[side] = groups[-1].hear()  # one after the other: the blocks are timed without company
            steps = max(3, round(3.0 / groups[0].run(2)))
            times = []
            for number in range(pairs + 1):
                order = groups if number % 2 else groups[::-1]
                taken = {group.side: group.run(steps) for group in order}
                times.append([taken[side] for side in sides])
            del times[0]
            for group in groups:
                for worker in group.workers:
                    print("facts", file=worker.stdin, flush=True)
                reported[group.side] = group.hear()
        finally:
            for group in groups:
                group.close()
    line: dict[str, Any] = {"bench": "pipeline", "model": model, "global_batch": batch, "stages": stages}
    line |= {"microbatches": microbatches, "remat": remat, "data": data, "steps": steps}
    for number, side in enumerate(sides):
        line[side] = {"images_per_second": spread([batch / pair[number] for pair in times])}
        line[side] |= {"peak_memory_mb": [round(worker["peak_bytes"] / 1e6) for worker in reported[side]]}
        if side == APART:
            line[side] = {"slower_than_alone": spread([pair[number] / pair[1] for pair in times])}
        if number < 3:
            continue
        for base, name in enumerate(("against_single", "against_accumulate")):
            line[side][name] = spread([pair[base] / pair[number] for pair in times])
        first = reported[side][0]
        ideal = stages * (1 - first["predicted"]["bubble"])
        line[side] |= {
            "balance": first["balance"],
            "bubble": {"equal_stages": first["predicted"]["bubble_of_equal_stages"],
                       "predicted": first["predicted"]["bubble"], "measured": first["row"]["bubble"]},
            "stage_ms": first["row"]["stage_ms"],
            "predicted_ms_per_microbatch": [first["predicted"]["forward_ms"], first["predicted"]["backward_ms"]],
            "cut_bytes": first["predicted"]["cut_bytes"],
            "live_activation_mb": [round(worker["row"]["live_activation_bytes"] / 1e6, 1) for worker in reported[side]],
            "param_mb": [round(worker["params_bytes"] / 1e6, 3) for worker in reported[side]],
            "ideal_speed_up": round(ideal, 3),
            "share_of_ideal": spread([pair[1] / pair[number] / ideal for pair in times]),
            "share_of_ideal_on_busy_cores": spread([pair[2] / pair[number] / ideal for pair in times]),
        }  # fmt: skip
    return line
