"""Strategies in the test's own process, on some of its eight fake devices."""

from __future__ import annotations

import contextlib
from unittest import mock

import jax

from jaxdist import strategies
from jaxdist.config import default_config

BATCH = 16


@contextlib.contextmanager
def only(devices: int):
    """JAX sees the first `devices` alone."""
    some = jax.devices()[:devices]
    with mock.patch.object(jax, "devices", lambda *_: some), mock.patch.object(jax, "local_devices", lambda **_: some):
        yield


def strategy_on(devices: int, task, batch: int = BATCH, **settings):
    defaults = {"name": "allreduce", "spmd": "shard_map", "fusion_megabytes": 64.0, "sync_batch_norm": None}
    defaults["accumulate"] = 1
    with only(devices):
        return strategies.build(
            defaults | settings, task, global_batch_size=batch, process_id=0, num_processes=1, group=mock.Mock()
        )


def run_strategy(task, batches, *, devices: int, strategy=None, **settings):
    size = len(batches[0]["label"])
    strategy = strategy or strategy_on(devices, task, size, **settings)
    with only(devices):
        state = strategy.import_state(task.init())
        for batch in batches:
            state, metrics = strategy.train_step(state, strategy.place(batch))
        assert float(metrics["count"]) == size
        return strategy.export_state(state)


SHARDED = default_config().strategy.to_dict() | {"name": "model_parallel", "shard_threshold": 16}

PIPELINE = {
    "name": "pipeline", "num_stages": 0, "replicas": 1, "num_microbatches": 4, "pipeline_schedule": "gpipe",
    "balance": (), "balance_by": "bytes", "remat": False, "memory_limit": 0.0,
    "accumulate": 1,
}  # fmt: skip


class Alone:
    """The process group of a run of one process."""

    host = "127.0.0.1"

    def gather(self, name, value):
        return [value]


def build_pipeline(task, *, devices: int, **options):
    with only(devices):
        return strategies.build(
            PIPELINE | options,
            task,
            global_batch_size=BATCH,
            process_id=0,
            num_processes=1,
            group=Alone(),
            timeouts={"compile_timeout_seconds": 60, "connect_timeout_seconds": 60},
        )


def run_pipeline(task, batches, *, devices: int, **options):
    strategy = build_pipeline(task, devices=devices, **options)
    try:
        state = strategy.import_state(task.init())
        for batch in batches:
            state, metrics = strategy.train_step(state, strategy.place(batch))
        assert float(metrics["count"]) == BATCH
        return strategy.export_state(state)
    finally:
        strategy.close()
