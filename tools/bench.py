"""Measurements; one JSON line each on standard output.

    python tools/bench.py allreduce --processes=2 [--model=densenet|resnet50]   fused against one collective a leaf
    python tools/bench.py step [--pairs=10]                                    single against allreduce on one process
    python tools/bench.py parameter_server [--megabytes=0.7,3.4] [--servers=1,2] [--workers=1,2,4]     PushPull and echo
    python tools/bench.py staleness [--bounds=0,1,3,10,-1] [--workers=4]       pace of uneven workers under a bound
    python tools/bench.py independent [--batch=26] [--pairs=10]   two workers and a server against two runs alone
    python tools/bench.py train --model=densenet|resnet50|resnet56v2|cnn [--batch=26] [--processes=2]
        [--strategy=allreduce] [--dtype=bfloat16] [--against=torch|xla]  images/s, share of the matrix peak, PyTorch DDP
    python tools/bench.py train --link=RATE[,DELAY[,LOSS]]|free|all --hosts=2,4 [--strategy=all] [--model=...]
        [--batch=26] [--against=torch]       the same between hosts of a laboratory (tools/lab.py) with such links:
        images/s, bytes a step of each host beside what the algorithm needs; then a table in Markdown
    python tools/bench.py pipeline [--batch=64] [--microbatches=4,8] [--stages=2] [--remat]       images/s of stages on
        cores of their own against one core; bubble and ideal, live activations, memory
    python tools/bench.py sharding [--model=densenet] [--batch=64] [--processes=2]     fsdp, zero1 and divided channels
        beside all-reduce: images/s, bytes of state, collectives and bytes a step
    python tools/bench.py wire [--megabytes=0.7,3.4] [--pairs=10]       an array between devices of two processes, there
        and back, by four wires
    python tools/bench.py fusion [--processes=2,5] [--fusion=0,1,4,64] [--link=loopback] [--link=1gbit] [--model=...]
        [--batch=26] [--pairs=3]       gradients summed in one buffer or in many, in profiled steps of real runs: time
        inside collectives, of it waiting, exchange, and hidden behind the computation
    python tools/bench.py profile --model=densenet [--batch=26]       milliseconds of a step by kind of operator
    python tools/bench.py convolutions [--model=cnn] [--batch=26] [--pairs=10]    each shape of the models: native, XLA,
        PyTorch on one core, GFLOP/s
    python tools/bench.py input [--data=mnist] [--batches=96,192,384,768,1536] [--pairs=3]     how long a step of a CNN
        waits for its batch, by cache and prefetch; ways of decoding; Grain; then tables in Markdown

Timings on shared machines drift: the variants alternate in one run, and the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from bench_train import MODELS
from free_ports import free_port


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def summary(values: list[float]) -> dict[str, float]:
    """min, median and max, rounded."""
    return {"min": round(min(values), 4), "median": round(statistics.median(values), 4), "max": round(max(values), 4)}


def alternate(a: Callable[[], Any], b: Callable[[], Any], pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of a and b, in turn, after one warm-up each."""
    a(), b()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for run, into in zip((a, b), times, strict=True):
            begin = time.perf_counter()
            run()
            into.append(time.perf_counter() - begin)
    return times


def allreduce(options: argparse.Namespace) -> None:
    """Starts the processes of `allreduce_worker`, each pinned to a core of its own where there are enough."""

    address = f"127.0.0.1:{free_port()}"
    cores = sorted(os.sched_getaffinity(0))
    workers = []
    for i in range(options.processes):
        command = [sys.executable, __file__, "allreduce_worker", f"--processes={options.processes}", f"--id={i}"]
        command += [f"--address={address}", f"--model={options.model}", f"--pairs={options.pairs}"]
        worker = subprocess.Popen(command)
        if options.processes <= len(cores):
            os.sched_setaffinity(worker.pid, {cores[i]})
        workers.append(worker)
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit("a worker failed")


def allreduce_worker(options: argparse.Namespace) -> None:
    import jax
    from jax.sharding import AxisType
    from jax.sharding import PartitionSpec as P

    from jaxdist import models
    from jaxdist.comm.fused import fused_psum

    jax.distributed.initialize(options.address, options.processes, options.id)
    chain = models.build(num_outputs=10, options={}, **MODELS[options.model])
    shapes = [params for params, _ in chain.shapes.values()]
    tree = jax.tree.map(lambda s: np.ones(s.shape, np.float32), shapes)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))

    def make(megabytes: float) -> Callable[[], Any]:
        body = jax.shard_map(
            lambda t: fused_psum(t, "data", megabytes), mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False
        )
        step = jax.jit(body)
        placed = jax.device_put(tree, jax.sharding.NamedSharding(mesh, P()))
        return lambda: jax.block_until_ready(step(placed))

    fused, leaves = alternate(make(64.0), make(0.0), options.pairs)
    if options.id == 0:
        arrays = jax.tree.leaves(tree)
        say(
            bench="allreduce", model=options.model, processes=options.processes, arrays=len(arrays),
            megabytes=round(sum(a.nbytes for a in arrays) / 1e6, 2),
            fused_ms=summary([1e3 * t for t in fused]), per_leaf_ms=summary([1e3 * t for t in leaves]),
            per_leaf_over_fused=summary([b / a for a, b in zip(fused, leaves, strict=True)]),
        )  # fmt: skip
    jax.distributed.shutdown()


def step(options: argparse.Namespace) -> None:
    """Ten steps of `single` and of `allreduce` on one device, in turn."""
    import jax

    from jaxdist import models, strategies
    from jaxdist.config import default_config
    from jaxdist.optim import optimizers
    from jaxdist.runtime import compilation
    from jaxdist.task import Task

    compilation.enable_cache("")
    spec = MODELS[options.model]
    chain = models.build(num_outputs=10, options={}, **spec)
    task = Task(chain, optimizers.build("sgd"), lambda seen: 0.1)
    rng = np.random.default_rng(0)
    batch = {
        "inputs": {"image": rng.normal(size=(options.batch, *spec["inputs"])).astype(np.float32)},
        "target": rng.integers(10, size=options.batch).astype(np.int32),
        "position": np.arange(options.batch, dtype=np.uint32),
    }

    def make(name: str) -> Callable[[], Any]:
        settings = default_config().strategy
        settings.name = name
        strategy = strategies.build(settings, task, global_batch_size=options.batch, process_id=0, num_processes=1)
        held = [strategy.import_state(task.init())]

        def run() -> None:
            for _ in range(10):
                held[0], metrics = strategy.train_step(held[0], strategy.place(batch))
            jax.block_until_ready(metrics)

        return run

    single, spread = alternate(make("single"), make("allreduce"), options.pairs)
    say(
        bench="step", model=options.model, batch=options.batch, single_ms=summary([100 * t for t in single]),
        allreduce_ms=summary([100 * t for t in spread]),
        allreduce_over_single=summary([b / a for a, b in zip(single, spread, strict=True)]),
    )  # fmt: skip


def pipeline(options: argparse.Namespace) -> None:
    """Two or more stages on cores of their own, in turn with the whole model on one."""
    from bench_pipeline import measure

    for microbatches in map(int, options.microbatches.split(",")):
        line = measure(
            options.model, options.batch, options.stages, microbatches, options.remat, options.pairs, options.data,
            free_port,
        )  # fmt: skip
        say(**line)


def sharding(options: argparse.Namespace) -> None:
    """State divided over processes of one core each."""
    from bench_sharding import measure

    data = "cifar10" if options.model.startswith("resnet") and options.data == "fashion_mnist" else options.data
    sides = options.sides.split(",")
    say(**measure(options.model, options.batch, options.processes, sides, options.pairs, data, free_port))


def wire(options: argparse.Namespace) -> None:
    """What stages may send their activations by."""
    from bench_wire import measure

    for megabytes in map(float, options.megabytes.split(",")):
        say(**measure(megabytes, options.pairs, free_port))


def train(options: argparse.Namespace) -> None:
    """Training steps, and PyTorch's in turn; one core for each process, or all for one."""
    if options.link or options.hosts is not None:
        return train_over_links(options)
    from bench_train import measure

    if options.strategy not in ("", "single", "allreduce"):
        raise SystemExit("--strategy is single or allreduce; over links (--link, --hosts) there are more.")
    if options.dtype and options.against:
        raise SystemExit("--dtype and --against exclude each other: PyTorch computes in float32 here.")
    if min(options.batch, options.pairs, options.processes) < 1:
        raise SystemExit("--batch, --pairs and --processes must be at least 1.")
    strategy = options.strategy or ("allreduce" if options.processes > 1 else "single")
    line = measure(
        options.model, options.batch, options.processes, strategy, options.against, options.pairs, options.dtype,
        free_port,
    )  # fmt: skip
    say(**line)


def train_over_links(options: argparse.Namespace) -> None:
    """Training between hosts of a laboratory; a line for each case, then the table of them all."""
    import bench_links

    try:
        if options.against == "xla":
            raise bench_links.Unusable("over links --against is torch.")
        if options.dtype or min(options.batch, options.pairs) < 1:
            raise bench_links.Unusable("over links there is no --dtype, and --batch and --pairs are at least 1.")
        links = bench_links.links_of(options.link or ["free"])
        hosts = bench_links.hosts_of("2" if options.hosts is None else options.hosts)
        strategies = bench_links.strategies_of(options.strategy, options.against)
        lines = []
        for line in bench_links.measure(
            links, hosts, strategies, options.model, options.batch, options.pairs, options.seconds
        ):
            lines.append(line)
            say(**line)
    except bench_links.Unusable as e:
        print(f"bench: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"\n{bench_links.table(lines)}")
    if any("error" in line for line in lines):
        raise SystemExit("a case failed; its line has the reason.")


def fusion(options: argparse.Namespace) -> None:
    """Real runs with buffers of several sizes, in turn; a line for each case, then the table of them all."""
    import bench_fusion

    code = bench_fusion.main(
        options.model, options.processes, options.fusion, options.link, options.batch, options.pairs
    )
    if code:
        raise SystemExit(code)


def convolutions(options: argparse.Namespace) -> None:
    """Every convolution of the models, a line for each; then the table of them all."""
    import bench_convolutions

    if min(options.batch, options.pairs) < 1:
        raise SystemExit("--batch and --pairs must be at least 1.")
    lines = []
    chosen = [options.model] if options.model else list(MODELS)
    for line in bench_convolutions.measure(chosen, options.batch, options.pairs):
        lines.append(line)
        say(**line)
    print(f"\n{bench_convolutions.table(lines)}")


def profile(options: argparse.Namespace) -> None:
    """Where the time of one step goes."""
    from bench_profile import measure

    say(**measure(options.model, options.batch, options.ops))


def parameter_server(options: argparse.Namespace) -> None:
    """PushPull against a bare gRPC echo and a raw socket, for each size, number of servers and of workers."""
    from bench_servers import measure

    for megabytes in map(float, options.megabytes.split(",")):
        for servers in map(int, options.servers.split(",")):
            for workers in map(int, options.workers.split(",")):
                say(**measure(megabytes, servers, workers, options.pairs, 50))


def staleness(options: argparse.Namespace) -> None:
    """Pushes a second under each bound when one worker is 5 times slow, and when each stalls now and then.

    A step is a sleep of 50 ms (and a tiny gradient), so that the workers do not share cores with each other's steps.
    """
    uneven = {
        "one_slow": "delay@seconds=0.05;delay@process=1,seconds=0.2",
        "random_stalls": "delay@seconds=0.05;delay@seconds=0.2,probability=0.1",
    }
    workers = max(map(int, options.workers.split(",")))
    for kind, fault in uneven.items():
        for bound in options.bounds.split(","):
            with tempfile.TemporaryDirectory() as workdir:
                summary, rows = _run_uneven(workdir, workers, bound, fault)
            begun, ended = next(r for r in rows if r["epoch"] > 0.1 * rows[-1]["epoch"]), rows[-1]
            pushes = (ended["examples_seen"] - begun["examples_seen"]) / 8
            seen = [{int(s): n for s, n in h.items()} for h in summary["staleness_histogram"]]
            say(
                bench="staleness", workers=workers, uneven=kind, bound=bound,
                pushes_per_second=round(pushes / (ended["time"] - begun["time"]), 1),
                clock_lead_max=max(summary["clock_lead_max"]),
                staleness_max=max(max(h, default=0) for h in seen),
                staleness_mean=round(sum(s * n for h in seen for s, n in h.items()) / summary["updates"], 2),
                pushes_per_worker=summary["pushes_per_worker"],
            )  # fmt: skip


def _run_uneven(workdir: str, workers: int, bound: str, fault: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and train rows of a run of a tiny model on the embedded digits, 8 examples a push."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    low, _, high = bound.partition("..")
    values = {
        "model.depth": 10, "model.growth_rate": 4, "model.dropout": 0.0, "global_batch_size": 8 * workers,
        "max_updates": 150, "eval_every_epochs": 1000, "checkpoint.every_epochs": 0,
        "log_every_steps": 5, "strategy.name": "parameter_server", "strategy.max_staleness": low,
    }  # fmt: skip
    if high:
        values |= {"strategy.staleness_policy": "dynamic", "strategy.staleness_range": f"({low},{high})"}
    command = [sys.executable, f"{root}/tools/launch.py", f"--num_workers={workers}", "--num_servers=1", "--"]
    command += [f"--config={root}/experiments/densenet_digits.py", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in values.items()]
    subprocess.run(command, env=os.environ | {"JAXDIST_FAULT": fault}, check=True, stdout=subprocess.DEVNULL)
    with open(f"{workdir}/summary.json") as f, open(f"{workdir}/metrics.jsonl") as lines:
        return json.load(f), [row for row in map(json.loads, lines) if row["kind"] == "train"]


def independent(options: argparse.Namespace) -> None:
    """Images a second of two workers of one core each with a server, and of two `single` runs on the same cores, in
    turn: what the exchange costs. Fashion-MNIST from $TFDS_DATA_DIR."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    cores = sorted(os.sched_getaffinity(0))[:2]
    common = [f"--config={root}/experiments/densenet_fmnist.py", "--config.data.eval_examples=100"]
    common += ["--config.max_updates=40", "--config.log_every_steps=5", "--config.checkpoint.every_epochs=0"]

    def together() -> float:
        with tempfile.TemporaryDirectory() as workdir:
            command = [sys.executable, f"{root}/tools/launch.py", "--num_workers=2", "--num_servers=1", "--"]
            command += [*common, f"--workdir={workdir}", "--config.strategy.name=parameter_server"]
            command += [f"--config.global_batch_size={2 * options.batch}", *options.config]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return _images_per_second(workdir)

    def alone() -> float:
        with tempfile.TemporaryDirectory() as folder:
            runs = []
            for core in cores:
                command = ["taskset", "-c", str(core), sys.executable, "-m", "jaxdist.main", *common]
                command += [f"--workdir={folder}/{core}", "--config.strategy.name=single"]
                command += [f"--config.global_batch_size={options.batch}"]
                runs.append(subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
            codes = [run.wait() for run in runs]
            if any(codes):
                raise SystemExit("a run failed")
            return sum(_images_per_second(f"{folder}/{core}") for core in cores)

    together(), alone()  # fills the compilation cache
    pairs = [(together(), alone()) for _ in range(options.pairs)]
    say(
        bench="independent", model="densenet", batch=options.batch, config=options.config,
        together_images_per_second=summary([a for a, _ in pairs]),
        alone_images_per_second=summary([b for _, b in pairs]), ratio=summary([a / b for a, b in pairs]),
    )  # fmt: skip


def _images_per_second(workdir: str) -> float:
    """Over all train rows but the first."""
    with open(f"{workdir}/metrics.jsonl") as lines:
        rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    return (rows[-1]["examples_seen"] - rows[0]["examples_seen"]) / (rows[-1]["time"] - rows[0]["time"])


def input_(options: argparse.Namespace) -> None:
    """The visible wait of a step by cache, prefetch and batch size; a line for each batch, then the table of them."""
    import bench_input

    batches = [int(size) for size in options.batches.split(",") if size.isdigit() and int(size)]
    if len(batches) != len(options.batches.split(",")):
        raise SystemExit(f"--batches={options.batches}: a list of sizes, as 96,192, is needed.")
    lines = []
    for line in bench_input.measure(options.data, batches, options.pairs):
        lines.append(line)
        say(**line)
    print(f"\n{bench_input.table(lines)}")


def main(argv: Sequence[str]) -> int:
    benches = {
        "allreduce": allreduce,
        "allreduce_worker": allreduce_worker,
        "step": step,
        "input": input_,
        "train": train,
        "profile": profile,
        "convolutions": convolutions,
        "fusion": fusion,
    }
    benches |= {
        "pipeline": pipeline,
        "sharding": sharding,
        "wire": wire,
        "parameter_server": parameter_server,
        "staleness": staleness,
        "independent": independent,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(benches))
    parser.add_argument("--pairs", type=int, help="rounds; default 10, over links, of `fusion` and of `input` 3")
    parser.add_argument("--processes", help="default 2; of `fusion` a list, default 2,5")
    parser.add_argument("--model", choices=sorted(MODELS), help="default densenet; of `convolutions` all")
    parser.add_argument("--strategy", default="", help="of `train`; over links a list, or all")
    parser.add_argument(
        "--link", action="append", default=[], help="of `train` and `fusion`, may be repeated: free, all, 100mbit,5ms"
    )
    parser.add_argument("--hosts", help="of `train` over links: 2, or 2,4")
    parser.add_argument("--seconds", type=float, default=20.0, help="at one link, over links")
    parser.add_argument("--fusion", default="0,1,4,64", help="of `fusion`: megabytes of a buffer")
    parser.add_argument("--ops", default="auto", choices=["auto", "xla", "native"], help="of `profile`: ops.backend")
    parser.add_argument("--dtype", default="", choices=["", "bfloat16"])
    parser.add_argument("--against", default="", choices=["", "torch", "xla"])
    parser.add_argument("--batch", type=int, default=0, help="26; of `pipeline` and `sharding` 64")
    parser.add_argument("--microbatches", default="4,8", help="of `pipeline`, whose --batch is the global one")
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument(
        "--sides", default="zero1,fsdp,fsdp_replicas,model", help="of `sharding`; also allreduce_sync, jit"
    )
    parser.add_argument("--megabytes", default="0.7,3.4")
    parser.add_argument("--servers", default="1,2")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--config", action="append", default=[], help="of `independent`: more of --config.KEY=VALUE")
    parser.add_argument("--bounds", default="0,1,3,10,-1", help="LOW..HIGH is DSSP")
    parser.add_argument("--data", default="", help="default fashion_mnist; of `input` mnist")
    parser.add_argument("--batches", default="96,192,384,768,1536", help="of `input`")
    parser.add_argument("--id", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.pairs is None:
        few = options.link or options.hosts is not None or options.name in ("fusion", "input")
        options.pairs = 3 if few else 10
    if options.name != "convolutions":
        options.model = options.model or "densenet"
    options.data = options.data or ("mnist" if options.name == "input" else "fashion_mnist")
    if options.processes is None:
        options.processes = "2,5" if options.name == "fusion" else "2"
    if options.name != "fusion":
        try:
            options.processes = int(options.processes)
        except ValueError:
            parser.error(f"argument --processes: {options.processes!r} is no number")
    options.batch = options.batch or (64 if options.name in ("pipeline", "sharding") else 26)
    benches[options.name](options)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended first
    sys.exit(main(sys.argv[1:]))
