"""From configuration to synchronous data parallelism: what cannot be is refused."""

from __future__ import annotations

import dataclasses

from jaxdist.dotted import function_of
from jaxdist.errors import UsageError
from jaxdist.strategies.batch_split import check_divisible, check_microbatches
from jaxdist.strategies.data_parallel import SPELLINGS
from jaxdist.strategies.data_parallel.allreduce import AllReduce
from jaxdist.strategies.spec import BuildContext, Resources, Settings
from jaxdist.task import Task


def check(settings: Settings, task: Task, resources: Resources) -> None:
    """Refuses what cannot be.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    if settings["spmd"] == "jit" and settings["sync_batch_norm"] is False:
        raise UsageError(
            "strategy.spmd='jit' computes BatchNorm over the global batch, so strategy.sync_batch_norm=False cannot be "
            "had: use strategy.spmd='shard_map' for statistics per replica."
        )
    if settings["spmd"] == "jit" and settings["accumulate"] > 1:
        raise UsageError(
            f"strategy.accumulate={settings['accumulate']} cuts each device's batch, and strategy.spmd='jit' knows the "
            "global one alone: use strategy.spmd='shard_map'."
        )
    devices = f"the {resources.num_devices} devices of {resources.num_processes} process(es)"
    check_divisible(resources.global_batch_size, resources.num_devices, devices)
    check_microbatches(settings, task, resources.global_batch_size, resources.num_devices)


def build(settings: Settings, task: Task, context: BuildContext) -> AllReduce:
    """The spelling that `strategy.spmd` says."""
    return function_of(SPELLINGS[settings["spmd"]], "strategy.spmd")(
        dataclasses.replace(task, microbatches=settings["accumulate"]),
        global_batch_size=context.global_batch_size,
        process_id=context.process_id,
        num_processes=context.num_processes,
        fusion_megabytes=settings["fusion_megabytes"],
        sync_batch_norm=bool(settings["sync_batch_norm"]),
    )
