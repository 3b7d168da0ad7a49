"""Ways of distributing a training step, behind one contract (`Strategy`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxdist.errors import UsageError
from jaxdist.strategies.allreduce import AllReduce, AllReduceJit, AllReducePmap
from jaxdist.strategies.base import Strategy as Strategy
from jaxdist.strategies.single import Single
from jaxdist.task import Task

SPELLINGS = {"shard_map": AllReduce, "jit": AllReduceJit, "pmap": AllReducePmap}
NAMES = ("single", "allreduce")


def needs_collectives(name: str) -> bool:
    """Whether the strategy runs over JAX's own collectives and thus needs their runtime."""
    return name in ("allreduce",)


def check(settings: Mapping[str, Any], *, global_batch_size: int, num_processes: int, num_devices: int) -> None:
    """Refuses what cannot work, before anything is built. `num_devices` counts all processes' devices.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    if settings["name"] == "single":
        if num_processes > 1:
            raise UsageError(
                f"strategy.name='single' is for one process, but there are {num_processes}: use 'allreduce'."
            )
        return
    if settings["spmd"] == "jit" and settings["sync_batch_norm"] is False:
        raise UsageError(
            "strategy.spmd='jit' computes BatchNorm over the global batch, so strategy.sync_batch_norm=False cannot be "
            "had: use strategy.spmd='shard_map' for statistics per replica."
        )
    rest = global_batch_size % num_devices
    if rest:
        down, up = global_batch_size - rest, global_batch_size - rest + num_devices
        near = f"{down} or {up}" if down else f"{up}"
        raise UsageError(
            f"global_batch_size={global_batch_size} is not divisible by the {num_devices} devices of {num_processes} "
            f"process(es) ({global_batch_size} = {num_devices} x {global_batch_size // num_devices} + {rest}); "
            f"nearest: {near}."
        )


def build(
    settings: Mapping[str, Any], task: Task, *, global_batch_size: int, process_id: int, num_processes: int
) -> Strategy:
    """The strategy that `config.strategy` describes. Uses JAX's devices."""
    if settings["name"] == "single":
        return Single(task, global_batch_size=global_batch_size)
    return SPELLINGS[settings["spmd"]](
        task,
        global_batch_size=global_batch_size,
        process_id=process_id,
        num_processes=num_processes,
        fusion_megabytes=settings["fusion_megabytes"],
        sync_batch_norm=bool(settings["sync_batch_norm"]),
    )
