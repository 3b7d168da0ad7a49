"""The measurement `profile` of tools/bench.py: where the milliseconds of one training step of `single` go.

Times are those of XLA's own operations, as `jax.profiler` records them, grouped by the layer that they came from (by
the names in the compiled program) and by direction; each operation's time is its median over the steps.
"""

from __future__ import annotations

import collections
import glob
import re
import statistics
import tempfile
from typing import Any

_LAYER = re.compile(r"/(conv|norm|dropout|shortcut|dense|classifier)\d?(?:/|$)")
_WRAPPERS = ("while", "call", "conditional")  # their parts are recorded too


def measure(model: str, batch: int, steps: int = 7) -> dict[str, Any]:
    """One line of results; run it on one core (`taskset -c 0`) to see one worker's step."""
    import jax
    from bench_train import MODELS, make_batch

    from jaxdist import models
    from jaxdist.optim import optimizers
    from jaxdist.runtime import allocator, compilation
    from jaxdist.task import Task
    from jaxdist.task.update import update

    allocator.keep_freed_memory()
    compilation.enable_cache("off")
    spec = MODELS[model]
    chain = models.build(spec["name"], input_shape=spec["shape"], num_classes=10, settings=spec["settings"], options={})
    task = Task(chain, optimizers.build("sgd"), lambda seen: 0.1)
    held = [jax.tree.map(jax.numpy.asarray, task.init().arrays())]
    examples = jax.device_put(make_batch(spec["shape"], batch, 0))
    rate = jax.numpy.float32(0.1)
    compiled = jax.jit(lambda *a: update(task, *a)[0], donate_argnums=0).lower(held[0], examples, rate).compile()

    def run() -> None:
        held[0] = jax.block_until_ready(compiled(held[0], examples, rate))

    for _ in range(5):
        run()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                run()
        times = _operations(glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)[0], steps)
    names = dict(re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]*)"', compiled.as_text() or "", re.M))
    groups: dict[str, float] = collections.defaultdict(float)
    for operation, seconds in times.items():
        if not operation.startswith(_WRAPPERS):
            groups[_group(names.get(operation, ""))] += 1e3 * seconds
    found = {name: round(ms, 2) for name, ms in sorted(groups.items(), key=lambda pair: -pair[1]) if ms >= 0.05}
    return {"bench": "profile", "model": model, "batch": batch, "total_ms": round(sum(groups.values()), 1), "ms": found}


def _operations(path: str, steps: int) -> dict[str, float]:
    """Operation -> seconds a step."""
    import jax

    durations: dict[str, list[float]] = collections.defaultdict(list)
    for plane in jax.profiler.ProfileData.from_file(path).planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is not None:
                    durations[str(operation)].append(event.duration_ns / 1e9)
    found: dict[str, float] = {}
    for operation, all_times in durations.items():
        rounds = max(len(all_times) // steps, 1)  # of a loop
        found[operation] = statistics.median(
            sum(all_times[i * rounds : (i + 1) * rounds]) for i in range(len(all_times) // rounds)
        )
    return found


def _group(name: str) -> str:
    direction = "backward" if "transpose(jvp" in name else "forward" if "jvp(" in name else "update"
    if direction == "update":
        return direction
    layer = _LAYER.search(name)
    return f"{direction} {layer.group(1) if layer else name.rpartition('/')[2] or 'other'}"
