"""`--role=evaluator`: evaluates one version after another beside the training, and stops nobody."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxdist import cluster as cluster_lib
from jaxdist import config as config_lib
from jaxdist import strategies
from jaxdist.cluster import Cluster
from jaxdist.config.phases import is_scheduled
from jaxdist.errors import Preempted, UsageError
from jaxdist.ps import RunFinished
from jaxdist.train.callbacks import Callback, Callbacks, RunView
from jaxdist.train.evaluate import evaluation_row
from jaxdist.train.recorder import in_words
from jaxdist.train.setup import (
    choose_operations,
    fingerprints,
    load_examples,
    make_task,
    set_up_compilation,
    total_examples,
)

_ASK_SECONDS = 0.5


def evaluate_snapshots(config: ConfigDict, workdir: str, cluster: Cluster, callbacks: Sequence[Callback] = ()) -> int:
    """Takes a consistent snapshot at each epoch's worth of examples, and tells the chief what it is worth.

    A snapshot is taken when the evaluation before it is done: a slow evaluator leaves epochs out, and says so. Returns
    the number of evaluations when the run has ended.

    Args:
      callbacks: called at `start`, `evaluated` and `end`.

    Raises:
      UsageError: this process does not fit the run.
      PeerError: the run failed, or the servers are lost.
      Exception: what a callback raised; the run goes on without its evaluator.
    """
    config_lib.validate(config)
    return run(config, workdir, cluster, callbacks)


def run(config: ConfigDict, workdir: str, cluster: Cluster, callbacks: Sequence[Callback] = ()) -> int:
    """`evaluate_snapshots` with a configuration that is known to be valid."""
    if is_scheduled(config.strategy):
        raise UsageError(
            f"--role=evaluator evaluates beside a run of one strategy; a run in phases (strategy.name="
            f"{config.strategy.name!r}) evaluates by itself."
        )
    cluster.check_secret()
    cluster.check_ports(config.cluster.port_range)
    set_up_compilation(config)
    os.makedirs(workdir, exist_ok=True)
    choose_operations(config)
    if config.data.partition and cluster.num_processes < 2:
        raise UsageError(
            f"data.partition={config.data.partition!r} makes an epoch as long as the largest part of a worker: give an "
            "evaluator --num_processes, too."
        )
    examples = load_examples(config, num_workers=cluster.num_processes)
    task = make_task(config, examples)
    signature = cluster_lib.run_signature(config_lib.comparable(config)) | fingerprints(examples, task)
    signature["run"] = cluster_lib.identity(cluster, config.cluster.run_id, workdir)
    observer = strategies.observe(
        config.strategy,
        task,
        global_batch_size=config.global_batch_size,
        server_addresses=cluster.server_addresses,
        signature=signature,
        timeouts=config.cluster,
        security=cluster.security,
    )
    num_train = examples.epoch_examples
    span = config.eval_every_epochs * num_train
    total = total_examples(config, num_train)
    state: Any = None
    done = 0

    def view() -> RunView:
        updates, seen = (state.updates, state.examples_seen) if state is not None else (0, 0)
        return RunView(
            process_id=-1,
            num_processes=cluster.num_processes,
            is_chief=False,
            config=config_lib.flatten(config),
            updates=updates,
            examples_seen=seen,
            epoch=seen / num_train,
            strategy=config.strategy.name,
            _arrays=lambda: state.arrays if state is not None else {},
            metrics=task.objective.metric_names,
        )

    listeners = Callbacks(callbacks, view)
    row: dict[str, Any] = {}
    try:
        listeners.call("start")
        crossed = int(observer.examples_seen() / span)
        while (seen := observer.examples_seen()) < total:
            if int(seen / span) == crossed:
                time.sleep(_ASK_SECONDS)
                continue
            state = observer.snapshot()
            updates, seen = state.updates, state.examples_seen
            if int(seen / span) > crossed + 1:
                words = "Epochs %d to %d were passed over: evaluating takes too long."
                logging.warning(words, crossed + 1, int(seen / span) - 1)
            crossed = int(seen / span)
            row = {"updates": updates, "examples_seen": seen} | evaluation_row(observer, state, examples, config)
            observer.post(row)
            done += 1
            logging.info("Version %d: validation %s", updates, in_words(row, task.objective.metric_names))
            listeners.call("evaluated", row | {"epoch": seen / num_train})
    except (RunFinished, Preempted) as e:
        logging.info("The run has ended: %s", e)
    finally:
        observer.close()
        examples.close()
    listeners.call("end", {"evaluations": done, "last_evaluation": row})
    return done
