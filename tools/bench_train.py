"""The measurement `train` of tools/bench.py: training steps of this package, by the back end that a run would take, and
of PyTorch DDP or of this package by XLA alone, in turn.

                 weights, one batch
    this file ------------------------> N workers of ours      | each prints what it found at equal weights;
              ------------------------> N workers of PyTorch   | then, at "run K", runs K steps and prints the seconds

Both sides stay alive, pinned to the same cores, and only one runs at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxdist.runtime import allocator, large_blocks

MODELS: dict[str, dict[str, Any]] = {
    "densenet": {"name": "densenet", "inputs": (28, 28, 1), "settings": {"depth": 40, "dropout": 0.1}},
    "resnet50": {"name": "resnet", "inputs": (32, 32, 3), "settings": {"depth": 50}},
    "resnet56v2": {"name": "resnet", "inputs": (32, 32, 3), "settings": {"depth": 56, "version": 2}},
    "cnn": {"name": "cnn", "inputs": (28, 28, 1), "settings": {}},
}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def malloc(side: str) -> dict[str, str]:
    """The variables of malloc that are quickest for each side.

    Ours are a run's (`jaxdist/runtime/allocator.py`). PyTorch makes many arrays above 32 MiB in a step and is slower
    if these go back to the kernel, so all of its memory is kept in the heap.
    """
    if side != "torch":
        library = large_blocks.library()
        return {"GLIBC_TUNABLES": allocator.TUNABLES} | ({large_blocks.VARIABLE: str(library)} if library else {})
    return {
        "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**63), "MALLOC_TOP_PAD_": str(2**26),
        "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip


class Group:
    """The workers of one side, `processes` of them."""

    def __init__(
        self,
        side: str,
        folder: str,
        address: str,
        cores: Sequence[int],
        arguments: Sequence[str],
        script: str = __file__,
    ) -> None:
        self.side = side
        self.workers = []
        for i, pinned in enumerate(cores_of(cores, processes_in(arguments))):
            command = [sys.executable, script, side, folder, address, str(i), *arguments]
            environment = {**os.environ, **malloc(side), "OMP_NUM_THREADS": str(len(pinned)), "PYTHONPATH": ROOT}
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
                preexec_fn=partial(os.sched_setaffinity, 0, pinned),
            )  # fmt: skip
            self.workers.append(worker)

    def hear(self) -> list[dict[str, Any]]:
        """One line of each. Raises: SystemExit: a worker has ended."""
        return [self._hear_one(worker) for worker in self.workers]

    def _hear_one(self, worker: subprocess.Popen[str]) -> dict[str, Any]:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith("{"):  # libraries print there too
                return json.loads(line)
        self.close()
        raise SystemExit(f"a worker of {self.side} has failed; its words are above")

    def run(self, steps: int) -> float:
        """Seconds a step, of the slowest."""
        for worker in self.workers:
            print(steps, file=worker.stdin, flush=True)
        return max(line["seconds"] for line in self.hear()) / steps

    def matrix_flops(self) -> float:
        """Operations a second of large matrix products, all workers at once: the peak that they share."""
        for worker in self.workers:
            print("matrix", file=worker.stdin, flush=True)
        return sum(line["flops"] for line in self.hear())

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()


def processes_in(arguments: Sequence[str]) -> int:
    return int(arguments[2])


def cores_of(cores: Sequence[int], processes: int) -> list[set[int]]:
    """All cores for one process, else one each, in turn."""
    return [set(cores)] if processes == 1 else [{cores[i % len(cores)]} for i in range(processes)]


def measure(
    model: str, batch: int, processes: int, strategy: str, against: str, pairs: int, dtype: str, port: Callable[[], int]
) -> dict[str, Any]:
    """One line of results; `batch` is each process's."""
    cores = sorted(os.sched_getaffinity(0))
    arguments = [model, str(batch), str(processes), strategy, dtype]
    with tempfile.TemporaryDirectory() as folder:
        ours = Group("ours", folder, f"127.0.0.1:{port()}", cores, arguments)
        facts = ours.hear()[0]
        groups = [ours]
        try:
            if against:
                groups.append(Group(against, folder, f"127.0.0.1:{port()}", cores, arguments))
                alike = groups[1].hear()[0]
                check_alike(facts, alike)
            peak = ours.matrix_flops()
            steps = max(3, round(1.0 / groups[0].run(2)))
            times = []
            for number in range(pairs + 1):
                order = groups if number % 2 else groups[::-1]  # neither always comes after the other
                taken = {group.side: group.run(steps) for group in order}
                times.append([taken[group.side] for group in groups])
            del times[0]  # warmed up
        finally:
            for group in groups:
                group.close()
    line = {"bench": "train", "model": model, "batch": batch, "processes": processes, "strategy": strategy}
    line |= {"dtype": dtype or "float32", "steps": steps} | {key: facts[key] for key in ("ops", "compile_seconds")}
    own = [pair[0] for pair in times]
    line |= {"ms": spread([1e3 * t for t in own]), "images_per_second": spread([batch * processes / t for t in own])}
    used = facts["flops"] * batch * processes / np.median(own)
    line |= {"share_of_matrix_peak": round(used / peak, 3), "matrix_gflops": round(peak / 1e9, 1)}
    if against:
        rates = {"images_per_second": spread([batch * processes / pair[1] for pair in times])}
        line[against] = rates | {key: alike[key] for key in ("layout", "version", "compile_seconds") if key in alike}
        line["ratio"] = spread([b / a for a, b in times])
        line["interval"] = interval([b / a for a, b in times])
        line["ratios"] = [round(b / a, 3) for a, b in times]
        line["loss_at_equal_weights"] = [facts["loss"], alike["loss"]]
    return line


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": round(min(values), 3), "median": round(float(np.median(values)), 3), "max": round(max(values), 3)}


def interval(values: Sequence[float], share: float = 0.9, resamples: int = 10_000) -> list[float]:
    """Where the median lies with that probability: percentiles of the medians of resamples (Efron 1979), seed 0."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (resamples, len(values)))
    return [round(float(q), 3) for q in np.quantile(np.median(drawn, axis=1), [(1 - share) / 2, (1 + share) / 2])]


def check_alike(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raises: SystemExit: the two sides do not train the same model."""
    near = all(abs(ours[key] - theirs[key]) <= 1e-3 * abs(ours[key]) for key in ("loss", "gradient_norm"))
    if ours["parameters"] != theirs["parameters"] or not near:
        raise SystemExit(f"these are different models: {ours} and {theirs}")


def make_batch(shape: Sequence[int], batch: int, number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        "inputs": {"image": rng.normal(size=(batch, *shape)).astype(np.float32)},
        "target": rng.integers(10, size=batch).astype(np.int32),
        "position": np.arange(number * batch, (number + 1) * batch, dtype=np.uint32),
    }


def serve(run: Callable[[int], None], **facts: Any) -> None:
    """A worker's life: says `facts`, then for each line with a number of steps runs them (and one before, untimed)."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        if line.strip() == "matrix":
            from jaxdist.profiling.peak import matrix_flops  # PyTorch's workers do not load jax

            print(json.dumps({"flops": matrix_flops()}), flush=True)
            continue
        run(1)
        begin = time.perf_counter()
        run(int(line))
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


def ours(
    folder: str, address: str, number: int, model: str, batch: int, processes: int, name: str, dtype: str,
    operations: str = "auto",
) -> None:  # fmt: skip
    import dataclasses

    import jax
    import jax.numpy as jnp

    from jaxdist import models, strategies
    from jaxdist.config import default_config
    from jaxdist.ops import backend
    from jaxdist.ops.native import compiler
    from jaxdist.optim import optimizers
    from jaxdist.profiling.model_flops import forward_flops
    from jaxdist.runtime import compilation
    from jaxdist.state import flatten
    from jaxdist.task import Task

    compilation.enable_cache("off")
    operations = "xla" if dtype else operations
    if operations != backend.XLA and compiler.likely():
        compilation.use_loop_emitters()
    connect(address, processes, number)
    backend.use(operations)
    spec = MODELS[model]
    build = lambda **change: models.build(  # noqa: E731
        **spec | {"settings": spec["settings"] | change}, num_outputs=10, options={}
    )
    task = Task(build(), optimizers.build("sgd"), lambda seen: 0.1, compute_dtype=jnp.dtype(dtype or "float32"))
    canonical = task.init()  # equal bits on all sides
    weights = {path: np.asarray(leaf) for path, leaf in flatten(canonical.params).items()}
    if number == 0:
        np.savez(f"{folder}/writing.npz", allow_pickle=False, **weights)
        os.rename(f"{folder}/writing.npz", f"{folder}/weights.npz")
    settings = default_config().strategy
    settings.name = name
    strategy = strategies.build(
        settings, task, global_batch_size=batch * processes, process_id=number, num_processes=processes
    )
    placed = strategy.place(make_batch(spec["inputs"], batch, number))
    held = [strategy.import_state(canonical)]

    def run(steps: int) -> None:
        for _ in range(steps):
            held[0], metrics = strategy.train_step(held[0], placed)
        jax.block_until_ready((held[0].arrays, metrics))

    begin = time.perf_counter()
    run(1)
    compiled = time.perf_counter() - begin
    run(2)
    if number:
        return serve(run)
    # Dropout is random on both sides: the models are compared without.
    plain = dataclasses.replace(task, model=build(dropout=0.0), compute_dtype=None)
    one = {k: v for k, v in make_batch(spec["inputs"], batch, 0).items() if k != "position"}
    params, stats = (jax.tree.map(np.asarray, tree) for tree in (canonical.params, canonical.model_state))
    value = jax.jit(jax.value_and_grad(lambda params: plain.loss(params, stats, one)[0]))
    loss, grads = value(params)
    norm = float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(grads))))
    flops = 3 * sum(forward_flops(task.model).values())
    serve(
        run, compile_seconds=round(compiled, 1), ops=backend.in_use(), loss=float(loss), gradient_norm=norm,
        flops=flops, parameters=sum(leaf.size for leaf in weights.values()),
    )  # fmt: skip


def connect(address: str, processes: int, number: int) -> None:
    import jax

    from jaxdist.cluster.collectives import connect_devices

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if processes > 1:
        jax.distributed.initialize(address, processes, number)
        connect_devices()


def theirs(
    folder: str, address: str, number: int, model: str, batch: int, processes: int, *_: str, live: Any = serve
) -> None:
    """A worker of PyTorch DDP: finds the quicker memory layout, then lives by `live`."""
    import copy

    import torch
    import torch_side
    from torch.nn import functional as F

    torch_side.prepare(int(os.environ["OMP_NUM_THREADS"]))
    spec = MODELS[model]
    one = make_batch(spec["inputs"], batch, number)
    labels = torch.from_numpy(one["target"].astype(np.int64))
    images = torch.from_numpy(one["inputs"]["image"].transpose(0, 3, 1, 2).copy())
    with np.load(f"{folder}/weights.npz") as weights:
        plain = torch_side.model_with(weights, spec["name"], spec["settings"], dropping=False)
        net = torch_side.model_with(weights, spec["name"], spec["settings"])
    loss, norm = torch_side.loss_and_norm(plain, images, labels)
    torch_side.join(address, number, processes)

    def stepper(layout: Any) -> Callable[[int], None]:
        x, copied = images.to(memory_format=layout), copy.deepcopy(net).to(memory_format=layout)
        spread = torch_side.distributed(copied, processes)
        rule = torch.optim.SGD(spread.parameters(), 0.1, momentum=0.9)

        def run(steps: int) -> None:
            for _ in range(steps):
                rule.zero_grad()
                F.cross_entropy(spread(x), labels).backward()
                rule.step()

        return run

    trials = [stepper(layout) for layout in torch_side.LAYOUTS]
    best = torch_side.quicker(trials, processes)
    live(
        trials[best], loss=loss, gradient_norm=norm, parameters=sum(p.numel() for p in plain.parameters()),
        layout=str(torch_side.LAYOUTS[best]).removeprefix("torch."), version=torch.__version__,
    )  # fmt: skip


def main(argv: Sequence[str]) -> None:
    side, folder, address, number, model, batch, processes, name, dtype = argv
    worker: Any = {"ours": ours, "xla": partial(ours, operations="xla"), "torch": theirs}[side]
    worker(folder, address, int(number), model, int(batch), int(processes), name, dtype)


if __name__ == "__main__":
    main(sys.argv[1:])
