"""A process of `tools/bench_links.py` on a host of the laboratory: a worker, a server, or PyTorch DDP.

After each update it appends a line to its own file: the time, the examples trained on, and the counters of its host's
interface. It trains until it is killed.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import bench_train
from lab import counters_in

PORT = 9000
_SAMPLE_SECONDS = 0.05


class Notes:
    """The file of one host. A line is whole or not there."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - as long as the process

    def add(self, examples: int, **more: Any) -> None:
        with open("/proc/net/dev") as text:
            counters = counters_in(text.read())
        self._file.write(json.dumps({"time": time.time(), "examples": examples} | counters | more) + "\n")


def config_of(plan: Mapping[str, Any]) -> Any:
    """The run's configuration: made-up images of the model's shape, no evaluations, no checkpoints."""
    from ml_collections import ConfigDict

    from jaxdist.config import default_config

    spec = bench_train.MODELS[plan["model"]]
    config = default_config()
    config.data.name, config.model.name = "synthetic", spec["name"]
    config.model.update(spec["settings"])
    with config.unlocked():
        config.data.options = ConfigDict({"num_train": 4096, "num_eval": 16, "shape": tuple(spec["inputs"])})
    config.num_epochs = config.eval_every_epochs = 1e6
    config.checkpoint.every_epochs = 0
    config.global_batch_size = plan["batch"] * plan["hosts"]
    config.optim.learning_rate = 0.001  # the loss is to stay finite, no more
    config.log_every_steps = plan["updates_a_note"]
    config.strategy.update(plan["settings"])
    return config


def worker(plan: Mapping[str, Any]) -> None:
    """`jaxdist.main`'s loop as it is, with one callback."""
    from jaxdist import train_and_evaluate
    from jaxdist.train.callbacks import Callback, RunView

    notes = Notes(plan["notes"])

    class Probe(Callback):
        def logged(self, run: RunView, row: Mapping[str, Any]) -> None:
            notes.add(run.examples_seen, stage_bytes_sent=row.get("stage_bytes_sent"))

    train_and_evaluate(config_of(plan), plan["folder"], _cluster(plan), [Probe()])


def server(plan: Mapping[str, Any]) -> None:
    """The parameter server; it does not know of steps, so its counters are sampled all the time."""
    from jaxdist.roles import server as role

    def sample() -> None:
        notes = Notes(plan["notes"])
        while True:
            notes.add(0)
            time.sleep(_SAMPLE_SECONDS)

    threading.Thread(target=sample, daemon=True).start()
    code, words = role.serve(config_of(plan), plan["folder"], _cluster(plan))
    print(words, file=sys.stderr, flush=True)
    os._exit(code)


def _cluster(plan: Mapping[str, Any]) -> Any:
    from jaxdist import cluster

    role = plan["role"]
    return cluster.detect(
        role=role,
        coordinator_address=f"{plan['addresses'][0]}:{PORT}",
        num_processes=plan["hosts"],
        process_id=plan["index"] if role == "worker" else None,
        server_addresses=[f"{address}:{PORT + 1}" for address in plan["addresses"][plan["hosts"] :]],
        server_index=0 if role == "server" else None,
    )


def torch(plan: Mapping[str, Any]) -> None:
    """PyTorch DDP with the same weights, batch and notes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    notes, batch = Notes(plan["notes"]), plan["batch"] * plan["hosts"]

    def live(run: Callable[[int], None], **_: Any) -> None:
        for number in range(1, 10**9):
            run(1)
            notes.add(number * batch)

    address = f"{plan['addresses'][0]}:{PORT}"
    bench_train.theirs(plan["folder"], address, plan["index"], plan["model"], plan["batch"], plan["hosts"], live=live)


def _end_with_the_measurement() -> None:
    """A laboratory whose owner is killed does not end what runs in it."""
    sys.stdin.read()
    os._exit(0)


def main(argv: Sequence[str]) -> None:
    plan = json.loads(argv[0])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    threading.Thread(target=_end_with_the_measurement, daemon=True).start()
    if plan["role"] == "torch":
        return torch(plan)
    from jaxdist.runtime.allocator import keep_freed_memory

    keep_freed_memory()  # as jaxdist.main does
    {"worker": worker, "server": server}[plan["role"]](plan)


if __name__ == "__main__":
    main(sys.argv[1:])
