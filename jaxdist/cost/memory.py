"""Whether a strategy's share of a model fits in the memory that a process may use, known before anything is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdist.cost.balance import Plan, given_bytes
from jaxdist.cost.blocks import BlockCost, block_costs
from jaxdist.errors import UsageError
from jaxdist.parallel.schedules import most_in_flight
from jaxdist.task import Task

GB = 1e9


class Need(NamedTuple):
    """Bytes of one process: arithmetic from shapes; the program itself and XLA's scratch space come on top."""

    params: int
    grads: int
    slots: int
    activations: int
    checkpoint: int  # the copy on the host while one is written

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        parts = zip(("parameters", "gradients", "optimizer", "activations", "checkpoint"), self, strict=True)
        return ", ".join(f"{name} {value / GB:.3f}" for name, value in parts)


def _need(task: Task, params: int, activations: int, copies: int = 1) -> Need:
    """`copies`: of the parameters, on as many devices."""
    slots = int(params * slots_per_param(task))
    return Need(copies * params, copies * params, copies * slots, activations, params + slots)


def slots_per_param(task: Task) -> float:
    """Bytes of optimizer state for each byte of a parameter."""
    params = {name: params for name, (params, _) in task.model.shapes.items()}
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    slots = [leaf for leaf in jax.tree.leaves(task.slot_shapes()) if leaf.ndim]
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in slots) / (
        count * np.dtype(task.dtype).itemsize
    )


def of_whole_model(task: Task, examples: int, devices: int = 1) -> Need:
    """Where every device has the whole model and takes `examples` at a time."""
    costs = block_costs(task, examples)
    activations = devices * sum(cost.saved_bytes for cost in costs)
    return _need(task, sum(cost.param_bytes for cost in costs), activations, devices)


class Share(NamedTuple):
    """The parts of the parameters and of the optimizer's state that one device holds; whether it gathers blocks."""

    params: float
    slots: float
    gathers: bool = False


def of_divided_model(task: Task, examples: int, devices: int, share: Share) -> Need:
    """Where each of a process's devices holds a share and, if it gathers blocks, the largest one whole for a while."""
    costs = block_costs(task, examples)
    params = sum(cost.param_bytes for cost in costs)
    largest = 2 * max(cost.param_bytes for cost in costs) if share.gathers else 0  # it and its gradient
    slots = params * slots_per_param(task) * share.slots
    held = int(params * share.params)
    activations = sum(cost.saved_bytes for cost in costs)
    one_leaf = max(cost.param_bytes for cost in costs)  # that the chief puts together; blocks, to be safe
    return Need(
        devices * held,
        devices * (held + largest),
        int(devices * slots),
        devices * activations,
        devices * (held + int(slots)) + one_leaf,
    )


def of_stages(
    task: Task,
    costs: Sequence[BlockCost],
    plan: Plan,
    *,
    num_microbatches: int,
    schedule: str,
    remat: bool,
) -> list[Need]:
    """Of each stage of a pipeline; `costs` are those of one microbatch."""
    in_flight = most_in_flight(plan.schedule(task.model, schedule, num_microbatches))
    by_name = {cost.name: cost for cost in costs}
    found = []
    for s, names in enumerate(plan.stages):
        own = [by_name[name] for name in names]
        params = sum(cost.param_bytes for cost in own)
        kept = in_flight[s] * (whole := sum(cost.saved_bytes for cost in own))
        if remat:  # inputs wait; one microbatch at a time is computed again
            kept = in_flight[s] * given_bytes(costs, task.model, names) + whole
        found.append(_need(task, params, kept))
    return found


def check(need: Need, settings: Mapping[str, Any], what: str, remedy: str) -> None:
    """Refuses a process that needs more than `strategy.memory_limit`.

    Raises:
      UsageError: with the sum and the remedy.
    """
    limit = settings["memory_limit"]
    if limit and need.total > limit * GB:
        raise UsageError(
            f"{what} needs about {need.total / GB:.3f} GB ({need}), more than strategy.memory_limit={limit:g} GB. "
            f"{remedy}"
        )
