"""Ways of distributing a training step, behind one contract (`Strategy`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxdist.comm.security import OPEN, Security
from jaxdist.config.phases import Phase, boundaries, parse
from jaxdist.cost import memory
from jaxdist.errors import UsageError, nearest
from jaxdist.ps import RunFinished as RunFinished
from jaxdist.ps import ServerReservation, end_run
from jaxdist.strategies.base import Strategy as Strategy
from jaxdist.strategies.batch_split import check_divisible
from jaxdist.strategies.data_parallel.allreduce import AllReduce
from jaxdist.strategies.data_parallel.pmap import AllReducePmap
from jaxdist.strategies.optimizer_check import refuse_unless_elementwise
from jaxdist.strategies.parameter_server.observer import Observer as Observer
from jaxdist.strategies.parameter_server.worker import ParameterServer, ending, is_asynchronous
from jaxdist.strategies.pipeline import setup as pipeline_setup
from jaxdist.strategies.sharded import setup as sharded_setup
from jaxdist.strategies.sharded.gspmd import ModelParallel
from jaxdist.strategies.single import Single
from jaxdist.task import Task
from jaxdist.train import phase_triggers
from jaxdist.train.phases import ProcessGroup, Switch

SPELLINGS: dict[str, type[AllReduce]] = {"shard_map": AllReduce, "jit": ModelParallel, "pmap": AllReducePmap}
# What a phase may be, and the options that mean something to it.
PHASES = {
    "single": ("accumulate",),
    "allreduce": ("accumulate", "spmd", "fusion_megabytes", "sync_batch_norm"),
    "parameter_server": (
        "accumulate", "max_staleness", "staleness_policy", "staleness_range", "scale_learning_rate", "overlap",
        "nonfinite", "lease_seconds", "snapshot_seconds",
    ),
    "pipeline": (
        "num_stages", "replicas", "num_microbatches", "pipeline_schedule", "balance_by", "remat",
    ),
    "model_parallel": ("mesh", "rules", "shard_params", "shard_threshold", "sync_batch_norm", "fusion_megabytes"),
}  # fmt: skip


def needs_collectives(settings: Mapping[str, Any], num_processes: int) -> bool:
    """Whether the strategy runs over JAX's own collectives from its beginning, and thus needs their runtime."""
    if settings["name"] == "pipeline":
        return pipeline_setup.needs_collectives(settings, num_processes)
    return settings["name"] in ("allreduce", "model_parallel")


def needs_peers(name: str) -> bool:
    """Whether the processes meet at process 0 first."""
    return name in ("single", "allreduce", "switch", "pipeline", "model_parallel")


def _phases(settings: Mapping[str, Any]) -> tuple[Phase, ...]:
    return parse(settings["schedule"], list(settings), by_rule=bool(settings["switch_when"]))


def check(
    settings: Mapping[str, Any],
    task: Task,
    *,
    global_batch_size: int,
    num_processes: int,
    num_devices: int,
    num_servers: int = 0,
) -> None:
    """Refuses what cannot work, before anything is built. `num_devices` counts all processes' devices.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    if settings["name"] == "switch":
        for number, phase in enumerate(_phases(settings), 1):
            if phase.name not in PHASES:
                raise UsageError(
                    f"strategy.schedule: {phase.name!r} cannot be a phase{nearest(phase.name, PHASES)}; one of "
                    f"{', '.join(PHASES)}."
                )
            foreign = sorted(set(phase.options) - set(PHASES[phase.name]))
            if foreign:
                raise UsageError(
                    f"Phase {number} of strategy.schedule, {phase}: {foreign[0]} means nothing to {phase.name}; it has "
                    f"{', '.join(PHASES[phase.name])}."
                )
            try:
                check(
                    phase.settings(settings),
                    task,
                    global_batch_size=global_batch_size,
                    num_processes=num_processes,
                    num_devices=num_devices,
                    num_servers=num_servers,
                )
            except UsageError as e:
                raise UsageError(f"Phase {number} of strategy.schedule, {phase}: {e}") from None
        return None
    if settings["name"] == "single":
        if num_processes > 1:
            raise UsageError(
                f"strategy.name='single' is for one process, but there are {num_processes}: use 'allreduce'."
            )
        return _check_microbatches(settings, task, global_batch_size, 1)
    if settings["name"] == "pipeline":
        return pipeline_setup.check(settings, task, global_batch_size=global_batch_size, num_processes=num_processes)
    if settings["name"] == "model_parallel":
        return sharded_setup.check(
            settings,
            task,
            global_batch_size=global_batch_size,
            num_processes=num_processes,
            num_devices=num_devices,
        )
    if settings["name"] == "parameter_server":
        _check_parameter_server(global_batch_size, num_processes, num_servers)
        refuse_unless_elementwise(task, "strategy.name='parameter_server', which cuts tensors among the servers")
        return _check_microbatches(settings, task, global_batch_size, num_processes * len(jax.local_devices()))
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
    check_divisible(global_batch_size, num_devices, f"the {num_devices} devices of {num_processes} process(es)")
    _check_microbatches(settings, task, global_batch_size, num_devices)


_LESS_MEMORY = "strategy.name='pipeline' cuts the model into stages; smaller batches or strategy.accumulate need less."


def _check_memory(settings: Mapping[str, Any], task: Task, global_batch_size: int, num_devices: int) -> None:
    if settings["memory_limit"]:  # it takes a few seconds to find out
        here = len(jax.local_devices()) if num_devices > 1 else 1
        need = memory.of_whole_model(task, global_batch_size // (num_devices * settings["accumulate"]), here)
        memory.check(need, settings, "One process", _LESS_MEMORY)


def _check_microbatches(settings: Mapping[str, Any], task: Task, global_batch_size: int, num_devices: int) -> None:
    parts = settings["accumulate"]
    if parts > 1:
        among = f"the {num_devices * parts} parts (strategy.accumulate={parts} on {num_devices} device(s))"
        check_divisible(global_batch_size, num_devices * parts, among)
    _check_memory(settings, task, global_batch_size, num_devices)


def _check_parameter_server(global_batch_size: int, num_processes: int, num_servers: int) -> None:
    if not num_servers:
        raise UsageError(
            "strategy.name='parameter_server' needs --server_addresses=HOST:PORT,... and a process with --role=server "
            "for each (tools/launch.py --num_servers=1 starts them on this machine)."
        )
    check_divisible(global_batch_size, num_processes, f"the {num_processes} workers")
    devices = num_processes * len(jax.local_devices())
    check_divisible(global_batch_size, devices, f"the {devices} devices of all workers")


def end_servers(server_addresses: Sequence[str], security: Security, error: BaseException | None) -> None:
    """From the chief at its end: servers that still wait for a run end too, as the chief does (None: well)."""
    for address in reversed(server_addresses):
        end_run(address, security, *ending(error))


def build_observer(settings: Mapping[str, Any], task: Task, **connection: Any) -> Observer:
    """What an evaluator sees of a run; `connection` as `Observer` takes it.

    Raises:
      UsageError: the strategy has nothing to observe.
    """
    if settings["name"] != "parameter_server":
        raise UsageError(
            f"--role=evaluator reads from parameter servers; strategy.name={settings['name']!r} evaluates by itself."
        )
    return Observer(task, **connection)


def build(
    settings: Mapping[str, Any],
    task: Task,
    *,
    global_batch_size: int,
    process_id: int,
    num_processes: int,
    server_addresses: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    timeouts: Mapping[str, float] | None = None,
    security: Security = OPEN,
    meeting: ProcessGroup | None = None,
    run_examples: int = 0,
    epoch_examples: int = 1,
    phase: int = 0,
    reserve: str = "",
    momentum_ramp: tuple[int, int] | None = None,
) -> Strategy:
    """The strategy that `config.strategy` describes. Uses JAX's devices, unless it is of several phases.

    Args:
      server_addresses: of the parameter servers, in order.
      facts: what all processes must have alike, for strategies whose processes do not meet before.
      timeouts: `config.cluster`.
      security: what parameter servers ask for.
      meeting: how all processes do something together, for strategies that need it.
      run_examples, epoch_examples: of the whole run and of an epoch, for the same.
      phase, reserve, momentum_ramp: of which phase this is the strategy (`ParameterServer`).
    """
    if settings["name"] == "switch":
        assert meeting is not None
        common: dict[str, Any] = {"global_batch_size": global_batch_size, "process_id": process_id}
        common |= {"num_processes": num_processes, "server_addresses": server_addresses, "facts": facts or {}}
        common |= {"timeouts": timeouts or {}, "security": security, "meeting": meeting}
        phases = _phases(settings)
        keeper = None
        if process_id == 0 and server_addresses:
            connect_seconds = common["timeouts"]["connect_timeout_seconds"]
            keeper = ServerReservation(
                server_addresses, security, facts=common["facts"], connect_seconds=connect_seconds
            )
        whole = run_examples // global_batch_size
        return Switch(
            task,
            phases,
            schedule=settings["schedule"],
            ends=[end * global_batch_size for end in boundaries(phases, whole)],
            build=lambda k, ramp: build(
                phases[k].settings(settings),
                task,
                phase=k,
                reserve=keeper.reserve if keeper is not None else "",
                momentum_ramp=ramp,
                **common,
            ),
            asynchronous=[is_asynchronous(p.settings(settings)) for p in phases],
            meeting=meeting,
            keeper=keeper,
            is_chief=process_id == 0,
            num_workers=num_processes,
            momentum_handover=settings["momentum_handover"],
            rule=phase_triggers.build(settings, epoch_examples, task.learning_rate, run_examples),
            epoch_examples=epoch_examples,
        )
    if settings["name"] == "pipeline":
        assert meeting is not None
        return pipeline_setup.build(
            settings,
            task,
            global_batch_size=global_batch_size,
            process_id=process_id,
            num_processes=num_processes,
            talk=meeting,
            timeouts=timeouts or {},
            phase=phase,
        )
    if settings["name"] == "model_parallel":
        assert meeting is not None
        return sharded_setup.build(
            settings,
            task,
            global_batch_size=global_batch_size,
            process_id=process_id,
            num_processes=num_processes,
            talk=meeting,
            phase=phase,
        )
    task = dataclasses.replace(task, microbatches=settings["accumulate"])
    if settings["name"] == "single":
        return Single(task, global_batch_size=global_batch_size)
    if settings["name"] == "parameter_server":
        return ParameterServer(
            task,
            global_batch_size=global_batch_size,
            process_id=process_id,
            num_processes=num_processes,
            server_addresses=server_addresses,
            facts=facts or {},
            timeouts=timeouts or {},
            settings=settings,
            security=security,
            phase=phase,
            reserve=reserve,
            momentum_ramp=momentum_ramp,
        )
    return SPELLINGS[settings["spmd"]](
        task,
        global_batch_size=global_batch_size,
        process_id=process_id,
        num_processes=num_processes,
        fusion_megabytes=settings["fusion_megabytes"],
        sync_batch_norm=bool(settings["sync_batch_norm"]),
    )
