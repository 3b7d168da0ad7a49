"""The measurement `pipeline` of tools/bench.py: stages on cores of their own against the whole model on one core.

Every side trains the same model on the same global batch; a worker prints what it knows when it is told "run K". The
sides stay alive and take turns, so that only one runs at a time:

    single            one process, one core
    accumulate=M      the same in microbatches: what the pipeline computes, to the last bit of BatchNorm
    apart             K such runs at once, one core each: how much busy cores hold each other up
    gpipe, 1f1b       K processes of one stage and one core each
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench_train import Group, spread

SINGLE, APART = "single", "apart"


def measure(
    model: str, batch: int, stages: int, microbatches: int, remat: bool, pairs: int, data: str, port: Callable[[], int]
) -> dict[str, Any]:
    """One line of results; `batch` is the global one."""
    cores = sorted(os.sched_getaffinity(0))
    sides = [SINGLE, f"accumulate={microbatches}", APART, "gpipe", "1f1b"]
    told: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        groups: list[Group] = []
        try:
            for side in sides:
                processes = stages if side in (APART, "gpipe", "1f1b") else 1
                arguments = [model, str(batch), str(processes), str(microbatches), str(int(remat)), data]
                own = cores if processes > 1 else cores[:1]
                groups.append(Group(side, folder, f"127.0.0.1:{port()}", own, arguments, script=__file__))
                told[side] = groups[-1].hear()  # one after the other: the blocks are timed without company
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
                told[group.side] = group.hear()
        finally:
            for group in groups:
                group.close()
    line: dict[str, Any] = {"bench": "pipeline", "model": model, "global_batch": batch, "stages": stages}
    line |= {"microbatches": microbatches, "remat": remat, "data": data, "steps": steps}
    for number, side in enumerate(sides):
        line[side] = {"images_per_second": spread([batch / pair[number] for pair in times])}
        line[side] |= {"peak_memory_mb": [round(worker["peak_bytes"] / 1e6) for worker in told[side]]}
        if side == APART:
            line[side] = {"slower_than_alone": spread([pair[number] / pair[1] for pair in times])}
        if number < 3:
            continue
        for base, name in enumerate(("against_single", "against_accumulate")):
            line[side][name] = spread([pair[base] / pair[number] for pair in times])
        first = told[side][0]
        ideal = stages * (1 - first["predicted"]["bubble"])
        line[side] |= {
            "balance": first["balance"],
            "bubble": {"equal_stages": first["predicted"]["bubble_of_equal_stages"],
                       "predicted": first["predicted"]["bubble"], "measured": first["row"]["bubble"]},
            "stage_ms": first["row"]["stage_ms"],
            "predicted_ms_per_microbatch": [first["predicted"]["forward_ms"], first["predicted"]["backward_ms"]],
            "cut_bytes": first["predicted"]["cut_bytes"],
            "live_activation_mb": [round(worker["row"]["live_activation_bytes"] / 1e6, 1) for worker in told[side]],
            "param_mb": [round(worker["param_bytes"] / 1e6, 3) for worker in told[side]],
            "ideal_speed_up": round(ideal, 3),
            "share_of_ideal": spread([pair[1] / pair[number] / ideal for pair in times]),
            "share_of_ideal_on_busy_cores": spread([pair[2] / pair[number] / ideal for pair in times]),
        }  # fmt: skip
    return line


def work(
    side: str,
    address: str,
    number: int,
    model: str,
    batch: int,
    processes: int,
    microbatches: int,
    remat: bool,
    data: str,
) -> None:
    """A worker's life: "run K" runs K steps, "facts" says what it knows."""
    import jax
    from bench_train import MODELS

    from jaxdist import cluster as cluster_lib
    from jaxdist import compilation, experiment, strategies
    from jaxdist.config import default_config
    from jaxdist.meeting import Meeting
    from jaxdist.position import Position
    from jaxdist.strategies.pipeline import Pipeline

    if side == APART:
        number, processes, side = 0, 1, f"accumulate={microbatches}"
    config = default_config()
    config.data.name, config.data.train_examples, config.data.eval_examples = data, 6000, 100
    config.model.name = MODELS[model]["name"]
    config.model.update(MODELS[model]["settings"])
    config.global_batch_size = batch
    config.num_epochs = 1e6
    config.strategy.name = "single"
    if side.startswith("accumulate"):
        config.strategy.accumulate = microbatches
    elif side != SINGLE:
        config.strategy.update(
            {"name": "pipeline", "num_microbatches": microbatches, "pipeline_schedule": side, "remat": remat}
        )
    compilation.set_up(config.compilation_cache, config.model.param_dtype)
    own = cluster_lib.Cluster(process_id=number, num_processes=processes, coordinator_address=address)
    peers = cluster_lib.connect(own, facts={}, settings=config.cluster, collectives=False) if processes > 1 else None
    examples = experiment.load_examples(config)
    task = experiment.make_task(config, examples)
    strategy = strategies.build(
        config.strategy,
        task,
        global_batch_size=batch,
        process_id=number,
        num_processes=processes,
        timeouts=config.cluster,
        meeting=Meeting(own, peers, task, config.cluster),
    )
    held = [strategy.import_state(task.init(), 10**9)]
    positions = strategy.positions(Position(0), 10**9)
    batches = [
        strategy.place(examples.loader.train_batch(examples.train, examples.stream, next(positions))) for _ in range(4)
    ]
    taken = [0]

    def run(steps: int) -> None:
        for _ in range(steps):
            held[0], _ = strategy.train_step(held[0], batches[taken[0] % len(batches)])
            taken[0] += 1
        jax.block_until_ready(jax.tree.leaves(held[0].arrays))

    run(2)
    strategy.row()
    print(json.dumps({"ready": True, "peak_bytes": 0}), flush=True)
    row: dict[str, Any] = {}
    for line in sys.stdin:
        if line.strip() == "facts":
            params = sum(leaf.nbytes for leaf in jax.tree.leaves(held[0].arrays["params"]))
            facts = {"row": row, "param_bytes": params}
            facts |= {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
            if isinstance(strategy, Pipeline):
                facts |= {"predicted": strategy.predicted, "balance": strategy.balance}
            print(json.dumps(facts), flush=True)
            continue
        run(1)
        strategy.row()
        begin = time.perf_counter()
        run(int(line))
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)
        row = strategy.row()


def main(argv: Sequence[str]) -> None:
    side, _, address, number, model, batch, processes, microbatches, remat, data = argv
    work(side, address, int(number), model, int(batch), int(processes), int(microbatches), bool(int(remat)), data)


if __name__ == "__main__":
    main(sys.argv[1:])
