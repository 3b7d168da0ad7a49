"""Which process and device each stage of each replica is on. Imports no jax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a stage worker is."""

    replica: int
    stage: int
    process: int
    device: int  # among the process's


def places(num_stages: int, replicas: int, num_processes: int, num_devices: int) -> list[Place]:
    """Of every stage worker, dealt out in order; `num_devices`: of one process."""
    each = num_stages * replicas // num_processes
    return [
        Place(worker // num_stages, worker % num_stages, worker // each, worker % each % num_devices)
        for worker in range(num_stages * replicas)
    ]


def placed(processes: Sequence[int], replicas: int, num_processes: int, num_devices: int) -> list[Place]:
    """Of every stage worker, where stages are on chosen processes of a replica: `processes`, of each stage."""
    each = num_processes // replicas
    found = []
    for replica in range(replicas):
        here: dict[int, int] = {}  # process of the replica -> stages on it so far
        for stage, process in enumerate(processes):
            device = here.get(process, 0)
            here[process] = device + 1
            found.append(Place(replica, stage, replica * each + process, device % num_devices))
    return found


def sizes(settings: Mapping[str, Any], num_processes: int) -> tuple[int, int]:
    """(stages, replicas of the pipeline); 0 stands for what the processes make of it.

    Of branches side by side the stages are known when they are chosen: 0.
    """
    if settings["branch_parallel"]:
        return 0, settings["replicas"] or 1
    stages = settings["num_stages"] or len(settings["balance"]) or max(num_processes // (settings["replicas"] or 1), 1)
    return stages, settings["replicas"] or max(num_processes // stages, 1)


def needs_collectives(settings: Mapping[str, Any], num_processes: int) -> bool:
    """Stages exchange activations over channels; replicas average by collectives."""
    return num_processes > 1 and sizes(settings, num_processes)[1] > 1
