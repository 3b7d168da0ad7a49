"""A global batch is shared out in equal parts, or refused."""

from __future__ import annotations

import jax

from jaxdist.cost import memory
from jaxdist.errors import UsageError
from jaxdist.strategies.spec import Settings
from jaxdist.task import Task

_LESS_MEMORY = "strategy.name='pipeline' cuts the model into stages; smaller batches or strategy.accumulate need less."


def check_divisible(global_batch_size: int, count: int, among: str) -> None:
    """`among`: words for the `count` parts, with the number, e.g. "the 5 workers".

    Raises:
      UsageError: with the arithmetic and the nearest sizes that can be shared.
    """
    whole, rest = divmod(global_batch_size, count)
    if rest:
        down, up = global_batch_size - rest, global_batch_size - rest + count
        near = f"{down} or {up}" if down else f"{up}"
        raise UsageError(
            f"global_batch_size={global_batch_size} is not divisible by {among} ({global_batch_size} = {count} x "
            f"{whole} + {rest}); nearest: {near}."
        )


def check_microbatches(settings: Settings, task: Task, global_batch_size: int, num_devices: int) -> None:
    """Where every device has the whole model and takes its share of a batch in `strategy.accumulate` parts.

    Raises:
      UsageError: the parts are unequal, or too large for `strategy.memory_limit`.
    """
    parts = settings["accumulate"]
    if parts > 1:
        among = f"the {num_devices * parts} parts (strategy.accumulate={parts} on {num_devices} device(s))"
        check_divisible(global_batch_size, num_devices * parts, among)
    if settings["memory_limit"]:  # it takes a few seconds to find out
        here = len(jax.local_devices()) if num_devices > 1 else 1
        need = memory.of_whole_model(task, global_batch_size // (num_devices * parts), here)
        memory.check(need, settings, "One process", _LESS_MEMORY)
