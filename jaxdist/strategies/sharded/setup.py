"""From configuration to a state that is divided over a mesh: what cannot be is refused, and what lies where is said."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Mapping
from typing import Any

import jax

from jaxdist.comm.array_server import ArrayExchange
from jaxdist.cost import memory
from jaxdist.dotted import function_of
from jaxdist.errors import UsageError
from jaxdist.parallel import mesh, partition_rules
from jaxdist.parallel.mesh import DATA, MODEL
from jaxdist.parallel.partition_rules import Assignment, Rule
from jaxdist.state import flatten
from jaxdist.strategies.batch_split import check_divisible
from jaxdist.strategies.data_parallel.allreduce import AllReduce
from jaxdist.strategies.optimizer_check import refuse_unless_elementwise
from jaxdist.strategies.sharded import LAYOUTS
from jaxdist.strategies.sharded.gspmd import ModelParallel
from jaxdist.strategies.spec import BuildContext, Resources, Settings
from jaxdist.task import Task

FAMILY = "family"  # the model's own rules
_REMEDY = "A larger mesh, strategy.shard_params='fsdp' or smaller batches need less."


def sizes(settings: Settings, num_devices: int) -> dict[str, int]:
    """{axis: devices} of the mesh.

    Raises:
      UsageError: `strategy.mesh` cannot be.
    """
    try:
        return mesh.parse(settings["mesh"], num_devices)
    except ValueError as e:
        raise UsageError(
            f"strategy.mesh: {e}. Devices are those of all processes; '' puts them all on the axis 'data'."
        ) from None


def rules_of(settings: Settings, task: Task) -> tuple[Rule, ...]:
    """Those that `strategy.rules` says.

    Raises:
      UsageError: they cannot be read.
    """
    own = settings["rules"] == FAMILY
    try:
        return partition_rules.parse("; ".join(task.model.partition_rules) if own else settings["rules"])
    except ValueError as e:
        raise UsageError(f"{'The rules of the model itself' if own else 'strategy.rules'}: {e}.") from None


def shapes(task: Task) -> dict[str, tuple[int, ...]]:
    """{path: shape} of parameters and statistics."""
    every = {name: flatten(params) | flatten(stats) for name, (params, stats) in task.model.shapes.items()}
    return {f"{name}/{path}": tuple(leaf.shape) for name, own in every.items() for path, leaf in own.items()}


def largest_tensor(task: Task) -> int:
    """Its number of elements."""
    return max(math.prod(shape) for shape in shapes(task).values())


def assignment(settings: Settings, task: Task, axes: Mapping[str, int]) -> Assignment:
    """Where the rules put what.

    Raises:
      UsageError: a rule that matches nothing, names an axis that is not there, or a dim that does not divide.
    """
    own = settings["rules"] == FAMILY
    rules = rules_of(settings, task) if axes.get(MODEL, 1) > 1 or not own else ()
    try:
        return partition_rules.assign(rules, shapes(task), axes, strict=not own)
    except ValueError as e:
        raise UsageError(
            f"strategy.rules: {e}. Change the rule or strategy.mesh; what no rule matches is whole on every device."
        ) from None


def check(settings: Settings, task: Task, resources: Resources) -> None:
    """Refuses what cannot be.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    how, num_devices, num_processes = settings["shard_params"], resources.num_devices, resources.num_processes
    if settings["accumulate"] > 1:
        raise UsageError(
            f"strategy.accumulate={settings['accumulate']} cuts each device's batch, and model_parallel takes it "
            "whole: use strategy.name='allreduce' with strategy.spmd='shard_map'."
        )
    axes = sizes(settings, num_devices)
    if how != "none" and axes.get(MODEL, 1) > 1:
        raise UsageError(
            f"strategy.shard_params={how!r} divides the state over the data axis alone, and strategy.mesh has "
            f"model:{axes[MODEL]}: use strategy.mesh='data:{num_devices}', or strategy.shard_params='none'."
        )
    if how != "none" and settings["rules"] not in (FAMILY, ""):
        raise UsageError(
            f"strategy.rules say nothing to strategy.shard_params={how!r}, which divides every large tensor."
        )
    if how == "none" and settings["sync_batch_norm"] is False:
        raise UsageError(
            "model_parallel computes BatchNorm over the global batch, so strategy.sync_batch_norm=False cannot be had: "
            "use strategy.shard_params='fsdp' or 'zero1', or strategy.name='allreduce'."
        )
    try:
        mesh.shares(num_processes, axes)
    except ValueError as e:
        raise UsageError(
            f"strategy.mesh={settings['mesh']!r}: {e}. Change the mesh or the devices of a process."
        ) from None
    among = f"the {axes[DATA]} part(s) of the mesh's data axis"
    check_divisible(resources.global_batch_size, axes[DATA], among)
    found = assignment(settings, task, axes)
    if axes.get(MODEL, 1) > 1 and not any(MODEL in partition for partition in found.partitions.values()):
        raise UsageError(
            f"strategy.mesh={settings['mesh']!r} has model:{axes[MODEL]}, and nothing lies along it: the model has "
            "no rules of its own that fit. Write some in strategy.rules, as in 'conv1/kernel = -,-,-,model'."
        )
    if how != "none":
        refuse_unless_elementwise(
            task,
            f"strategy.shard_params={how!r}, which cuts large tensors among the devices",
            own_name=lambda path: f"{path.partition('/')[0]}/{path.rpartition('/')[2]}",
        )
    if settings["memory_limit"]:
        here = num_devices // num_processes
        examples = resources.global_batch_size // axes[DATA]
        need = memory.of_divided_model(task, examples, here, _share(settings, task, axes, found))
        memory.check(need, settings, "One process", _REMEDY)


def _share(settings: Settings, task: Task, axes: Mapping[str, int], found: Assignment) -> memory.Share:
    """Which part of the parameters and of the optimizer's state a device holds."""
    if settings["shard_params"] != "none":
        part = 1 / axes[DATA]
        gathers = settings["shard_params"] == "fsdp"
        return memory.Share(part if gathers else 1.0, part, gathers)
    whole = held = 0
    for path, shape in shapes(task).items():
        size = math.prod(shape)
        whole += size
        for axis in found.partitions[path]:
            size //= axes[axis] if axis else 1
        held += size
    return memory.Share(held / whole, held / whole)


def build(settings: Settings, task: Task, context: BuildContext) -> AllReduce:
    """The strategy. Uses JAX's devices."""
    axes = sizes(settings, len(jax.devices()))

    def exchange() -> ArrayExchange:
        group, name = context.group, f"the shards of phase {context.phase + 1}"
        assert group is not None
        token = group.gather(f"token of {name}", uuid.uuid4().hex if context.is_chief else "")[0]
        return ArrayExchange(
            group.host,
            token,
            ports=group.ports,
            security=group.security,
            is_chief=context.is_chief,
            gather=lambda what, value: group.gather(f"{what} of {name}", value),
        )

    common: dict[str, Any] = {
        "global_batch_size": context.global_batch_size,
        "process_id": context.process_id,
        "num_processes": context.num_processes,
        "fusion_megabytes": settings["fusion_megabytes"],
        "exchange": exchange if context.num_processes > 1 else None,
    }
    if settings["shard_params"] != "none":
        synced = settings["sync_batch_norm"]
        if context.is_chief and largest_tensor(task) < settings["shard_threshold"]:
            logging.warning(
                "Nothing is divided: no tensor has strategy.shard_threshold=%d elements.", settings["shard_threshold"]
            )
        return function_of(LAYOUTS[settings["shard_params"]], "strategy.shard_params")(
            task, threshold=settings["shard_threshold"], sync_batch_norm=synced is None or synced, **common
        )
    found = assignment(settings, task, axes)
    if context.is_chief:
        if not any(found.partitions.values()):
            logging.warning(
                "Nothing is divided but the batch, and BatchNorm communicates in every layer: this is strategy.name="
                "'allreduce' with strategy.spmd='jit'. Set strategy.mesh or strategy.shard_params."
            )
        for path, why in found.kept_whole.items():
            logging.warning("%s is whole on every device: %s", path, why)
    return ModelParallel(task, partitions=found.partitions, sizes=axes, **common)
