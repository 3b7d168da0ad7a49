"""Which run a process belongs to: what it proves to the others, so that a stranger on a shared port is refused.

--run_id=NAME (or cluster.run_id, JAXDIST_RUN_ID)   run_id=NAME
nothing                                             workdir=/absolute/path
nothing, in a scheduler's job                       workdir=/absolute/path in Slurm job 4711
"""

from __future__ import annotations

import json
import os
import socket
import uuid

from jaxdist.cluster.detect import Cluster


def identity(cluster: Cluster, run_id: str, workdir: str) -> str:
    """The run that this process was started for, as text; `run_id`: `config.cluster.run_id`."""
    name = cluster.run_id or run_id
    if name:
        return f"run_id={name}"
    return f"workdir={os.path.abspath(workdir)}" + (f" in {cluster.job}" if cluster.job else "")


def own_name() -> str:
    """Of this process among all others: 'process 4711 on host-a'."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def caller(run: str, process_id: int) -> str:
    """What this process says of itself with each call, as JSON; the token tells it from another with its id."""
    return json.dumps({"run": run, "process": process_id, "token": uuid.uuid4().hex, "name": own_name()})
