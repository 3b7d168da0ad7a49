"""`--check`: all that can be known before a run begins, on this host and by this process alone. Starts nothing, and
leaves the run directory as it is.

    data      read, cut, checked                         as every run does
    model     built, traced; optimizer and strategy      as every run does
    cluster   names, addresses, ports
    metrics   the port for Prometheus, where it is asked for
    disk      place for checkpoints, and what is there: whether it is this run's, and can be read
"""

from __future__ import annotations

import logging
import pathlib
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from ml_collections import ConfigDict

from jaxdist import config as config_lib
from jaxdist.checkpoint import disk, run_directory
from jaxdist.checkpoint.checkpointer import Checkpointer
from jaxdist.cluster import Cluster, reachable
from jaxdist.errors import UsageError
from jaxdist.roles import server
from jaxdist.runtime import devices, prometheus
from jaxdist.task import Task
from jaxdist.train.setup import (
    Examples,
    check_phases,
    choose_operations,
    load_examples,
    make_task,
    num_params,
    run_examples,
    set_up_compilation,
)

T = TypeVar("T")


def run(config: ConfigDict, workdir: str, cluster: Cluster) -> str:
    """Logs a line for each part; returns what is good, in words. `config` is known to be valid.

    Raises:
      UsageError: what is not; of several parts the first one's words, the others' are in the log.
    """
    begin = time.monotonic()
    set_up_compilation(config)  # first: the other may begin JAX's back ends
    devices.check_settings()
    problems: list[str] = []
    good: list[str] = []

    def part(name: str, look: Callable[[], tuple[str, T]]) -> T | None:
        began = time.monotonic()
        try:
            words, found = look()
        except UsageError as e:
            logging.error("%s: bad: %s", name, e)
            problems.append(f"{name}: {e}")
            return None
        logging.info("%s: good: %s (%.1f s)", name, words, time.monotonic() - began)
        good.append(name)
        return found

    if cluster.role == "server":
        part("optimizer", lambda: (server.update_rule(config).name, None))
    else:
        examples = part("data", lambda: _data(config, cluster))
        if examples is not None:
            task = part("model", lambda: _model(config, examples, cluster))
            if task is not None and cluster.is_chief:
                part("disk", lambda: (_disk(config, workdir, examples, task), None))
            examples.close()
    part("cluster", lambda: (_cluster(config, cluster), None))
    if config.monitor.prometheus_port:
        part("metrics", lambda: (_metrics(config, cluster), None))
    if problems:
        raise UsageError(problems[0])
    return f"{', '.join(good)}: good ({time.monotonic() - begin:.1f} s); nothing was started."


def _data(config: ConfigDict, cluster: Cluster) -> tuple[str, Examples]:
    examples = load_examples(config, num_workers=cluster.num_processes)
    one = list(examples.train.take(np.array([0])).items())
    counts = {"train": examples.train, "held out": examples.holdout, "evaluation": examples.evaluation}
    sizes = ", ".join(f"{len(split)} {name}" for name, split in counts.items() if split is not None)
    inputs = ", ".join(f"{name} {'x'.join(map(str, array.shape[1:]))} {array.dtype}" for name, array in one)
    total = sum(len(split) for split in counts.values() if split is not None) * sum(a.nbytes for _, a in one)
    classes = f", {examples.num_classes} classes" if examples.num_classes else ""
    return f"{examples.name}: {sizes} examples of {inputs}{classes}, {total / 1e6:.1f} MB", examples


def _model(config: ConfigDict, examples: Examples, cluster: Cluster) -> tuple[str, Task]:
    choose_operations(config)
    task = make_task(config, examples)
    here = len(devices.local())
    check_phases(
        config,
        task,
        num_processes=cluster.num_processes,
        num_servers=len(cluster.server_addresses),
        devices_here=here,
    )
    updates = run_examples(config, examples.epoch_examples) // config.global_batch_size
    size = disk.checkpoint_bytes(task.model.shapes)
    words = f"{config.model.name}: {num_params(task)} parameters, {size / 1e6:.1f} MB; {updates} updates by "
    return words + f"{config.strategy.name} on {cluster.num_processes} x {here} devices", task


def _disk(config: ConfigDict, workdir: str, examples: Examples, task: Task) -> str:
    words = disk.check(workdir, disk.checkpoint_bytes(task.init().arrays()), config.checkpoint.keep)
    if not (pathlib.Path(workdir) / "checkpoints").is_dir():
        return f"{words}; a new run"
    run_directory.check_same_run(workdir, config_lib.flatten(config))
    run_directory.check_same_data(workdir, examples.digests | examples.parts_digest)
    found = Checkpointer(workdir, keep=config.checkpoint.keep).look()
    return f"{words}; " + (f"the run goes on from update {found}" if found is not None else "no checkpoint is whole")


def _metrics(config: ConfigDict, cluster: Cluster) -> str:
    with prometheus.serving(config.monitor, cluster.role, cluster.number):
        return "they can be served"


def _cluster(config: ConfigDict, cluster: Cluster) -> str:
    cluster.check_secret()
    cluster.check_ports(config.cluster.port_range)
    if cluster.is_chief and cluster.coordinator_address:
        cluster.security.check_certificate("Process 0")
    return reachable.check(cluster, config.cluster.address)
