"""From configuration to a worker of the parameter servers, or an observer: what cannot be is refused."""

from __future__ import annotations

import dataclasses

import jax

from jaxdist.errors import UsageError
from jaxdist.strategies.batch_split import check_divisible, check_microbatches
from jaxdist.strategies.optimizer_check import refuse_unless_elementwise
from jaxdist.strategies.parameter_server.observer import Observer
from jaxdist.strategies.parameter_server.worker import ParameterServer
from jaxdist.strategies.spec import BuildContext, Resources, Settings
from jaxdist.task import Task


def check(settings: Settings, task: Task, resources: Resources) -> None:
    """Refuses what cannot be.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    if not resources.num_servers:
        raise UsageError(
            "strategy.name='parameter_server' needs --server_addresses=HOST:PORT,... and a process with --role=server "
            "for each (tools/launch.py --num_servers=1 starts them on this machine)."
        )
    workers, devices = resources.num_processes, resources.num_processes * len(jax.local_devices())
    check_divisible(resources.global_batch_size, workers, f"the {workers} workers")
    check_divisible(resources.global_batch_size, devices, f"the {devices} devices of all workers")
    refuse_unless_elementwise(task, "strategy.name='parameter_server', which cuts tensors among the servers")
    check_microbatches(settings, task, resources.global_batch_size, devices)


def build(settings: Settings, task: Task, context: BuildContext) -> ParameterServer:
    """The worker of this process; it connects when the first state is imported."""
    return ParameterServer(
        dataclasses.replace(task, microbatches=settings["accumulate"]),
        global_batch_size=context.global_batch_size,
        process_id=context.process_id,
        num_processes=context.num_processes,
        server_addresses=context.server_addresses,
        signature=context.signature,
        timeouts=context.timeouts,
        settings=settings,
        security=context.security,
        phase=context.phase,
        reserve=context.reservation,
        momentum_ramp=context.momentum_ramp,
        profile=context.profile,
        data_parts=context.data_parts,
    )


def observe(task: Task, context: BuildContext) -> Observer:
    """What an evaluator sees of the run. Blocks until the run has begun.

    Raises:
      UsageError: no server can be reached, or this process does not fit the run.
    """
    return Observer(
        task,
        server_addresses=context.server_addresses,
        signature=context.signature,
        timeouts=context.timeouts,
        security=context.security,
    )
