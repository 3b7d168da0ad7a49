"""From configuration to a `Pipeline`: what cannot be cut so is refused, the stages are chosen, the links opened."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import jax

from jaxdist.cost import balance as balancing
from jaxdist.cost import blocks, branches, memory
from jaxdist.errors import UsageError
from jaxdist.parallel.partition import partition
from jaxdist.strategies.batch_split import check_divisible
from jaxdist.strategies.optimizer_check import refuse_unless_blockwise
from jaxdist.strategies.pipeline.connect import StageConnector
from jaxdist.strategies.pipeline.pipeline import Pipeline, Remembered
from jaxdist.strategies.pipeline.placement import places, sizes
from jaxdist.strategies.pipeline.workers import where
from jaxdist.strategies.spec import BuildContext, Resources, Settings
from jaxdist.task import Task

_REMEDY = "More stages, more microbatches, strategy.pipeline_schedule='1f1b' or strategy.remat=True need less."


def check(settings: Settings, task: Task, resources: Resources) -> None:
    """Refuses what cannot be.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    if settings["accumulate"] > 1:
        raise UsageError(
            f"strategy.accumulate={settings['accumulate']} is not for a pipeline, whose parts of a batch are "
            "strategy.num_microbatches."
        )
    global_batch_size, num_processes = resources.global_batch_size, resources.num_processes
    stages, replicas = sizes(settings, num_processes)
    names, given = task.model.names, tuple(settings["balance"])
    parts = settings["num_microbatches"] * replicas
    among = f"{settings['num_microbatches']} microbatches x {replicas} replica(s) = {parts}"
    check_divisible(global_batch_size, parts, among)
    refuse_unless_blockwise(task, "strategy.name='pipeline', whose stages have some of the blocks each")
    if settings["branch_parallel"]:
        return _check_branches(settings, task, replicas, num_processes)
    if stages > len(names):
        raise UsageError(
            f"strategy.num_stages={stages} are more stages than the model has blocks ({len(names)}: {names[0]} to "
            f"{names[-1]}): at most {len(names)}."
        )
    if given and (len(given) != stages or sum(given) != len(names) or min(given) < 1):
        near = partition([1.0] * len(names), stages)
        terms = " + ".join(map(str, given))
        raise UsageError(
            f"strategy.balance={given} does not fit {stages} stages of {len(names)} blocks: {len(given)} entries, "
            f"{terms} = {sum(given)}. For example {near}, or () to have it chosen."
        )
    workers = stages * replicas
    if workers % num_processes or (stages % (workers // num_processes) and (workers // num_processes) % stages):
        raise UsageError(
            f"{stages} stages x {replicas} replica(s) = {workers} cannot be dealt out to {num_processes} process(es): "
            "each must hold equally many stages of one pipeline, or whole pipelines. Change strategy.num_stages, "
            "strategy.replicas or the number of processes."
        )
    where = [(p.stage, p.process, p.device) for p in places(stages, replicas, num_processes, len(jax.local_devices()))]
    if len(set(where)) < len(where):
        raise UsageError(
            f"{replicas} replicas of a stage would share a device: a process has {workers // num_processes} of the "
            f"{workers} stages and {len(jax.local_devices())} device(s). Fewer strategy.replicas, or more processes."
        )
    if settings["memory_limit"] and (given or settings["balance_by"] == "bytes"):
        # By time it is known when the blocks have been measured.
        costs = blocks.block_costs(task, _examples(settings, global_batch_size, replicas))
        _check_memory(settings, task, costs, _plan(settings, task, costs, given, stages), replicas, num_processes)


def _check_branches(settings: Settings, task: Task, replicas: int, num_processes: int) -> None:
    """Refuses branches side by side where there are none, or which cannot be on these processes."""
    if task.model.is_chain:
        raise UsageError(
            "strategy.branch_parallel=True puts branches side by side, and the blocks of this model are a chain: "
            "leave it out, and the chain is cut into stages."
        )
    for key in ("num_stages", "balance"):
        if settings[key]:
            raise UsageError(
                f"strategy.{key}={settings[key]} says how a pipeline is cut, and strategy.branch_parallel=True chooses "
                "that by the branches: leave one of them out."
            )
    if num_processes % replicas:
        raise UsageError(
            f"strategy.replicas={replicas} do not divide {num_processes} processes: each replica has equally many."
        )
    if (each := num_processes // replicas) > len(task.model.names):
        raise UsageError(
            f"{each} processes of a replica are more than the model has blocks ({len(task.model.names)}): use fewer."
        )


def build(settings: Settings, task: Task, context: BuildContext) -> Pipeline:
    """The strategy; its stages are chosen and connected when the first state is imported."""
    global_batch_size, process_id, num_processes = context.global_batch_size, context.process_id, context.num_processes
    group, timeouts = context.group, context.timeouts
    assert group is not None
    stages, replicas = sizes(settings, num_processes)
    name = f"the pipeline of phase {context.phase + 1}"

    def plan(remembered: Remembered) -> balancing.Plan:
        before = tuple((remembered or {}).get("balance", ()))
        balance = tuple(settings["balance"]) or (before if len(before) == stages else ())
        costs = blocks.block_costs(task, _examples(settings, global_batch_size, replicas))
        each = max(num_processes // replicas, 1)
        kept = _kept_stages(remembered, each) if settings["branch_parallel"] else None
        if settings["balance_by"] == "time" and not balance and kept is None and (stages > 1 or each > 1):
            costs = blocks.measured(
                task,
                costs,
                _examples(settings, global_batch_size, replicas),
                remat=settings["remat"],
                part=process_id,
                parts=num_processes,
                gather=lambda own: group.gather(f"times of blocks of {name}", own),
            )
        if settings["branch_parallel"]:
            found = _branches(settings, task, costs, each, kept)
        else:
            found = _plan(settings, task, costs, balance, stages)
        _check_memory(settings, task, costs, found, replicas, num_processes)
        if process_id == 0:
            for line in balancing.describe(found).splitlines():
                logging.info("Pipeline: %s", line)
        return found

    def connector() -> StageConnector:
        return StageConnector(
            group,
            process_id,
            name=name,
            seconds=timeouts["compile_timeout_seconds"],
            connect_seconds=timeouts["connect_timeout_seconds"],
        )

    return Pipeline(
        task,
        global_batch_size=global_batch_size,
        process_id=process_id,
        num_processes=num_processes,
        replicas=replicas,
        plan=plan,
        **_timetable(settings),
        connector=connector if num_processes > 1 else None,
    )


Stages = tuple[list[tuple[str, ...]], tuple[int, ...]]  # the blocks of each, and on which process it is


def _kept_stages(remembered: Remembered, num_processes: int) -> Stages | None:
    """Those of a checkpoint, if as many processes have made it."""
    if not remembered or not remembered.get("processes") or max(remembered["processes"]) + 1 != num_processes:
        return None
    return [tuple(names) for names in remembered["stages"]], tuple(remembered["processes"])


def _branches(
    settings: Settings, task: Task, costs: Sequence[blocks.BlockCost], num_processes: int, kept: Stages | None
) -> balancing.Plan:
    options = _timetable(settings)
    if kept is not None:
        return balancing.described(costs, task.model, *kept, **options)
    return branches.plan_branches(costs, task.model, num_processes=num_processes, **options)


def _timetable(settings: Settings) -> dict[str, Any]:
    """What is done when, and what is kept until then."""
    return {
        "num_microbatches": settings["num_microbatches"],
        "schedule": settings["pipeline_schedule"],
        "remat": settings["remat"],
    }


def _examples(settings: Settings, global_batch_size: int, replicas: int) -> int:
    """Of a microbatch."""
    return global_batch_size // (settings["num_microbatches"] * replicas)


def _plan(
    settings: Settings, task: Task, costs: Sequence[blocks.BlockCost], balance: Sequence[int], stages: int
) -> balancing.Plan:
    return balancing.plan(
        costs,
        task.model,
        balance=balance,
        num_stages=stages,
        **_timetable(settings),
    )


def _check_memory(
    settings: Settings,
    task: Task,
    costs: Sequence[blocks.BlockCost],
    plan: balancing.Plan,
    replicas: int,
    num_processes: int,
) -> None:
    needs = memory.of_stages(
        task,
        costs,
        plan,
        **_timetable(settings),
    )
    here = where(plan, replicas, num_processes, len(jax.local_devices()))
    for process in range(num_processes):
        stages = [p.stage for p in here if p.process == process]
        need = memory.Need(*map(sum, zip(*(needs[s] for s in stages), strict=True)))
        words = f"Process {process}, with stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))},"
        memory.check(need, settings, words, _REMEDY)
