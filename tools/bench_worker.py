"""A process of the measurements `pipeline` and `sharding`: real training steps under any strategy, on demand."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any


def arguments(
    model: str,
    batch: int,
    processes: int,
    data: str,
    settings: Mapping[str, Any],
    *,
    collectives: bool,
    apart: bool = False,
) -> list[str]:
    """Of `bench_train.Group`. `batch`: the global one; `apart`: each process is a run of its own."""
    how = dict(settings) | {"collectives": collectives, "apart": apart}
    return [model, str(batch), str(processes), data, json.dumps(how)]


def main(argv: Sequence[str]) -> None:
    """A worker's life: K runs K steps, "facts" says what it knows."""
    _, _, address, index, model, global_batch, count, data, how = argv
    number, processes, batch, settings = int(index), int(count), int(global_batch), json.loads(how)
    collectives = settings.pop("collectives")
    if settings.pop("apart"):
        number, processes = 0, 1
    import jax
    from bench_train import MODELS

    from jaxdist import cluster as cluster_lib
    from jaxdist import strategies
    from jaxdist.config import default_config
    from jaxdist.runtime.memory_use import bytes_here, peak_bytes
    from jaxdist.state import Position
    from jaxdist.train import setup

    config = default_config()
    config.data.name, config.data.train_examples, config.data.eval_examples = data, 6000, 100
    config.model.name = MODELS[model]["name"]
    config.model.update(MODELS[model]["settings"])
    config.global_batch_size = batch
    config.num_epochs = 1e6
    config.strategy.update(settings)
    setup.set_up_compilation(config)
    own = cluster_lib.Cluster(process_id=number, num_processes=processes, coordinator_address=address)
    group = cluster_lib.connect(own, run=address, signature={}, settings=config.cluster, collectives=collectives)
    setup.choose_operations(config)
    examples = setup.load_examples(config)
    task = setup.make_task(config, examples)
    strategy = strategies.build(
        config.strategy,
        task,
        global_batch_size=batch,
        process_id=number,
        num_processes=processes,
        timeouts=config.cluster,
        group=group,
    )
    held = [strategy.import_state(task.init(), 10**9)]
    positions = iter(strategy.positions(Position(0), 10**9))
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
    strategy.report.row()
    print(json.dumps({"ready": True}), flush=True)
    row: dict[str, Any] = {}
    for line in sys.stdin:
        if line.strip() == "facts":
            arrays = held[0].arrays
            facts: dict[str, Any] = {
                f"{tree}_bytes": bytes_here(arrays.get(tree, {})) for tree in ("params", "opt_state")
            }
            facts |= {"row": row, "peak_bytes": peak_bytes()}
            plan = getattr(strategy.report, "plan", {})
            facts |= {name: plan[name] for name in ("predicted", "balance") if name in plan}
            if hasattr(strategy, "collectives"):
                facts["collectives"] = strategy.collectives()
            print(json.dumps(facts), flush=True)
            continue
        run(1)
        strategy.report.row()
        begin = time.perf_counter()
        run(int(line))
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)
        row = strategy.report.row()


if __name__ == "__main__":
    main(sys.argv[1:])
