"""Strategies in the test's own process, on some of its eight fake devices."""

from __future__ import annotations

import contextlib
from unittest import mock

import jax

from jaxdist import strategies
from jaxdist.cluster import Cluster, ProcessGroup
from jaxdist.config import default_config

BATCH = 16
DEFAULTS = default_config().strategy.to_dict()
SHARDED = DEFAULTS | {"name": "model_parallel", "shard_threshold": 16}
PIPELINE = DEFAULTS | {"name": "pipeline", "replicas": 1, "balance_by": "bytes"}
TWO_STAGES = PIPELINE | {"num_stages": 2, "num_microbatches": 2}
TIMEOUTS = {"compile_timeout_seconds": 60, "connect_timeout_seconds": 60}
STRATEGIES = {  # name -> (devices, replicas over which BatchNorm is apart, settings)
    "single": (1, 1, {"name": "single"}),
    "allreduce": (4, 4, {}),
    "jit": (2, 1, {"spmd": "jit"}),
    "pmap": (2, 2, {"spmd": "pmap"}),
    "fsdp": (2, 1, SHARDED | {"shard_params": "fsdp"}),
    "zero1": (2, 1, SHARDED | {"shard_params": "zero1"}),
    "mesh": (4, 1, SHARDED | {"mesh": "data:2,model:2"}),
    "gpipe": (2, 2, TWO_STAGES),
}
ALONE = ProcessGroup.alone(Cluster(), default_config().cluster)


@contextlib.contextmanager
def only(devices: int):
    """JAX sees the first `devices` alone."""
    some = jax.devices()[:devices]
    with mock.patch.object(jax, "devices", lambda *_: some), mock.patch.object(jax, "local_devices", lambda **_: some):
        yield


def strategy_on(devices: int, task, batch: int = BATCH, **settings):
    with only(devices):
        return strategies.build(
            DEFAULTS | settings,
            task,
            global_batch_size=batch,
            process_id=0,
            num_processes=1,
            group=ALONE,
            timeouts=TIMEOUTS,
        )


def run_strategy(task, batches, *, devices: int, strategy=None, **settings):
    size = len(batches[0]["target"])
    strategy = strategy or strategy_on(devices, task, size, **settings)
    with only(devices):
        state = strategy.import_state(task.init())
        for batch in batches:
            state, metrics = strategy.train_step(state, strategy.place(batch))
        assert float(metrics["count"]) == size
        return strategy.export_state(state)


def build_pipeline(task, *, devices: int, **options):
    return strategy_on(devices, task, **PIPELINE | options)


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
