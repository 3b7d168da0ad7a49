"""Which process and device each stage of each replica is on."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where a slot is."""

    replica: int
    stage: int
    process: int
    device: int  # among the process's


def places(num_stages: int, replicas: int, num_processes: int, num_devices: int) -> list[Place]:
    """Of every slot; `num_devices`: of one process."""
    each = num_stages * replicas // num_processes
    return [
        Place(slot // num_stages, slot % num_stages, slot // each, slot % each % num_devices)
        for slot in range(num_stages * replicas)
    ]
