"""The stage workers of a process, linked to those that they exchange activations with."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import jax

from jaxdist.cost.balance import Plan
from jaxdist.models import Graph
from jaxdist.parallel.schedules import Schedule
from jaxdist.strategies.pipeline.connect import StageConnector
from jaxdist.strategies.pipeline.links import Link, LocalLink
from jaxdist.strategies.pipeline.placement import Place, placed, places
from jaxdist.strategies.pipeline.stage_worker import Neighbour, StageWorker
from jaxdist.task.stage import Stage


def where(plan: Plan, replicas: int, num_processes: int, num_devices: int) -> list[Place]:
    """The place of every stage worker; `num_devices`: of a process."""
    if plan.processes:
        return placed(plan.processes, replicas, num_processes, num_devices)
    return places(len(plan.stages), replicas, num_processes, num_devices)


def device_of(place: Place) -> jax.Device:
    """Of a place in this process."""
    return jax.local_devices()[place.device]


def connected_workers(
    plan: Plan,
    model: Graph,
    table: Schedule,
    stages: Mapping[int, Stage],
    every: Sequence[Place],
    own: Sequence[Place],
    connector: StageConnector | None,
) -> list[StageWorker]:
    """Those at `own` of `every` place, with a link for each pair of stages between which something crosses.

    Blocks for the other processes where there is a connector.
    """
    edges, parents = plan.edges(model), plan.parents(model)
    at = {(p.replica, p.stage): p for p in every}
    links: dict[tuple[Place, int], Link] = {}  # (own place, the other stage)
    outside = []
    for p in own:
        for before, after in edges:
            if p.stage not in (before, after):
                continue
            other = at[p.replica, after if p.stage == before else before]
            if other.process != p.process:
                outside.append((p, other))
            elif p.stage == before:
                links[p, after], links[other, before] = LocalLink.pair(device_of(p), device_of(other))
    if connector is not None:
        opened = connector.open([(p[:2], o[:2], o.process, device_of(p)) for p, o in outside])
        links |= {(at[mine], other[1]): link for (mine, other), link in opened.items()}
    kinds = {name: (shape, plan.dtypes[name]) for name, shape in model.activation_shapes.items()}

    def neighbour(p: Place, other: int) -> Neighbour:
        before, after = sorted((p.stage, other))
        return Neighbour(links[p, other], other, edges[before, after], parents[before] == after)

    turns = {device_of(p): threading.Lock() for p in own}
    return [
        StageWorker(
            stages[p.stage],
            p.stage,
            table[p.stage],
            device_of(p),
            sources=[neighbour(p, before) for before, after in edges if after == p.stage],
            sinks=[neighbour(p, after) for before, after in edges if before == p.stage],
            kinds=kinds,
            turn=turns[device_of(p)],
        )
        for p in own
    ]
