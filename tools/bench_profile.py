"""The measurement `profile` of tools/bench.py: where the milliseconds of one training step of `single` go.

The table of one process and one made-up batch, by kind of operator, as `jaxdist/profiling` makes it of real runs.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from jaxdist.profiling.files import by_kind


def measure(model: str, batch: int, operations: str = "auto", steps: int = 7) -> dict[str, Any]:
    """One line of results; run it on one core (`taskset -c 0`) to see one worker's step. `traced`: how many operations
    that have native kernels were traced for them, and how many for XLA."""
    import jax
    from bench_train import MODELS, make_batch

    from jaxdist import models
    from jaxdist.ops import backend
    from jaxdist.ops.native import compiler
    from jaxdist.optim import optimizers
    from jaxdist.profiling.programs import programs_of
    from jaxdist.profiling.table import make_table
    from jaxdist.profiling.trace import read
    from jaxdist.runtime import allocator, compilation, profiler
    from jaxdist.task import Task
    from jaxdist.task.update import update

    allocator.keep_freed_memory()
    compilation.enable_cache("off")
    if operations != backend.XLA and compiler.likely():
        compilation.use_loop_emitters()
    operations, before = backend.use(operations), backend.traced()
    spec = MODELS[model]
    chain = models.build(**spec, num_outputs=10, options={})
    task = Task(chain, optimizers.build("sgd"), lambda seen: 0.1)
    held = [jax.tree.map(jax.numpy.asarray, task.init().arrays())]
    examples = jax.device_put(make_batch(spec["inputs"], batch, 0))
    rate = jax.numpy.float32(0.1)
    compiled = jax.jit(lambda *a: update(task, *a)[0], donate_argnums=0).lower(held[0], examples, rate).compile()

    def run() -> None:
        held[0] = jax.block_until_ready(compiled(held[0], examples, rate))

    for _ in range(5):
        run()
    with profiler.tracing() as trace:
        begin = time.time()
        for _ in range(steps):
            run()
        end = time.time()
        trace.stop()
        found = read(trace.path(), frozenset())
    table = make_table(
        found, programs_of(profiler.programs(), found.programs), begin=begin - found.unix_time,
        end=end - found.unix_time, steps=steps, blocks=frozenset(chain.names), training_thread=0,
    )  # fmt: skip
    traced = {name: count - before[name] for name, count in backend.traced().items()}
    about = {"bench": "profile", "model": model, "batch": batch, "ops": operations, "traced": traced}
    return about | line_of(table)


def line_of(table: Any) -> dict[str, Any]:
    """`total_ms`, of the step, and `ms`, self time by kind, the longest first, without those below 0.05."""
    kinds = by_kind(dataclasses.asdict(row) for row in table.rows)
    ms = {one["kind"]: round(one["self_ms"], 2) for one in kinds if one["self_ms"] >= 0.05}
    return {"total_ms": round(table.step_ms, 1), "ms": ms}
