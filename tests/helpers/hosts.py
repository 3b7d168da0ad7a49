"""Runs over hosts of their own: network namespaces that `tools/lab.py` makes, skipped where there can be none."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from helpers.processes import ROOT, environment, main_command

sys.path.insert(0, str(ROOT / "tools"))
import lab as laboratory

STRATEGIES: dict[str, dict[str, Any]] = {
    "allreduce": {},
    "fsdp": {
        "strategy__name": "model_parallel",
        "strategy__shard_params": "fsdp",
        "strategy__shard_threshold": 16,
    },
    "pipeline": {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"},
    "rounds": {"strategy__name": "parameter_server", "strategy__max_staleness": 0},
    "servers": {"strategy__name": "parameter_server"},
    "switch": {
        "strategy__name": "switch",
        "strategy__schedule": "allreduce:0.5,parameter_server(max_staleness=1):0.25,allreduce",
    },
}
WITH_SERVER = ("rounds", "servers", "switch")


@contextlib.contextmanager
def lab_of(hosts: int, **settings: Any) -> Iterator[laboratory.Lab]:
    """A laboratory; skips the test where there can be none."""
    made = laboratory.Lab(hosts, **settings)
    try:
        made.__enter__()
    except laboratory.NoLab as e:
        pytest.skip(str(e))
    with contextlib.closing(made):
        yield made


def train(
    lab: laboratory.Lab,
    workdir,
    strategy: str,
    port: int,
    *,
    by_name: bool = False,
    workers: int = 0,
    server: int = 0,
    fault: str = "",
    environs: Sequence[Mapping[str, str]] = (),
    **changes: Any,
) -> list[subprocess.Popen]:
    """Starts a run with a worker on each of the first hosts (0: on all), and where it needs one a server on host
    `server`, which is the first of the list; `environs`: of each host, variables that its processes have besides."""
    workers = workers or len(lab.names)

    def known(host: int) -> str:
        literal = f"[{lab.addresses[host]}]" if ":" in lab.addresses[host] else lab.addresses[host]
        return lab.names[host] if by_name else literal

    flags = [f"--num_processes={workers}", f"--coordinator_address={known(0)}:{port}"]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    common = environment() | {"JAXDIST_TOKEN": "a secret of these tests", "JAXDIST_FAULT": fault}
    env = [common | dict(own) for own in environs] or [common] * len(lab.names)
    settings = STRATEGIES[strategy] | {"cluster__connect_timeout_seconds": 60.0} | changes
    started = []
    if strategy in WITH_SERVER:
        flags.append(f"--server_addresses={known(server)}:{port + 1}")
        command = main_command(workdir, *flags, "--role=server", "--server_index=0", **settings)
        started.append(lab.popen(server, command, env=env[server], **options))
    for host in range(workers):
        command = main_command(workdir, *flags, f"--process_id={host}", **settings)
        started.append(lab.popen(host, command, env=env[host], **options))
    return started


def ended(processes: list[subprocess.Popen], seconds: float = 180) -> list[tuple[int, str]]:
    """(exit code, output) of each. Blocks until all have ended."""
    said = [process.communicate(timeout=seconds)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]
