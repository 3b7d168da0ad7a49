"""One process of a run as a user's program starts it, with callbacks that write down what they are told.

python -m helpers.own.with_callbacks WORKDIR PROCESS_ID COORDINATOR SERVERS SCHEDULE [raise]
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

import numpy as np
from helpers import tiny_config

import jaxdist
from jaxdist.cluster import Cluster


class Diary(jaxdist.Callback):
    """A line a moment: [moment, strategy, updates, what of the row]."""

    def __init__(self, path: pathlib.Path, *, raises_at: int = -1) -> None:
        self.path, self.raises_at = path, raises_at

    def note(self, moment: str, run, what) -> None:
        with open(self.path, "a") as f:
            f.write(json.dumps([moment, run.strategy, run.updates, what]) + "\n")

    def start(self, run) -> None:
        self.note("start", run, run.config["optim.learning_rate"])

    def logged(self, run, row) -> None:
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in _leaves(run.arrays["params"]))
        for view in (row, run.config, run.arrays):
            try:
                view["loss"] = 0.0
            except TypeError:
                continue
            raise AssertionError("a view can be changed")
        self.note("logged", run, row["updates"])
        if 0 <= self.raises_at <= run.updates:
            raise RuntimeError("a callback of somebody's own failed")

    def evaluated(self, run, row) -> None:
        self.note("evaluated", run, row["updates"])

    def saved(self, run, row) -> None:
        self.note("saved", run, row["updates"])

    def phase_changed(self, run, row) -> None:
        self.note("phase_changed", run, row["to"])

    def end(self, run, summary) -> None:
        self.note("end", run, summary["updates"])


def _leaves(tree):
    import jax

    return [leaf.addressable_data(0) for leaf in jax.tree.leaves(tree)]


def main(workdir: str, process_id: str, coordinator: str, servers: str, schedule: str, *raises: str) -> None:
    config = tiny_config.get_config()
    config.num_epochs = 1.0
    if schedule:
        config.strategy.name, config.strategy.schedule = "switch", schedule
    cluster = Cluster(
        process_id=int(process_id),
        num_processes=2,
        coordinator_address=coordinator,
        server_addresses=tuple(filter(None, servers.split(","))),
    )
    fails = raises and process_id == "1"
    diary = Diary(pathlib.Path(workdir) / f"diary-{process_id}", raises_at=6 if fails else -1)
    os.makedirs(workdir, exist_ok=True)
    jaxdist.train_and_evaluate(config, workdir, cluster, callbacks=[jaxdist.Callback(), diary])


if __name__ == "__main__":
    main(*sys.argv[1:])
