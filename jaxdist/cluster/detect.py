"""Who this process is and who the others are: from flags, or from the launcher's variables."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.comm.addresses import split
from jaxdist.comm.ports import Ports
from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import UsageError

_ADDRESS = r"\S+:\d+"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The place of this process in a run.

    Attributes:
      role: 'worker', 'server' or 'evaluator'.
      process_id, num_processes: among the workers.
      coordinator_address: 'host:port' at which process 0 serves the rendezvous; '' for a run of one process.
      server_addresses, server_index: of the parameter servers.
      security: what they ask for; from the variables JAXDIST_TOKEN and JAXDIST_TLS_*.
      run_id: the name of the run, where it was given one.
      job: the scheduler's job that this process is a part of: 'Slurm job 4711'.
    """

    role: str = "worker"
    process_id: int = 0
    num_processes: int = 1
    coordinator_address: str = ""
    server_addresses: tuple[str, ...] = ()
    server_index: int = 0
    security: Security = OPEN
    run_id: str = ""
    job: str = ""

    def check_secret(self) -> None:
        """Refuses a run that anybody on the network could take part in.

        Raises:
          UsageError: others can reach it, there is no token, and nobody said that this is meant.
        """
        if self.coordinator_address:
            self.security.check_secret("--coordinator_address=", self.coordinator_address)
        for address in self.server_addresses:
            self.security.check_secret("--server_addresses: ", address)

    def check_ports(self, port_range: str) -> None:
        """Raises:
        UsageError: a port of the flags is outside `cluster.port_range`.
        """
        for address in (self.coordinator_address, *self.server_addresses):
            if address and split(address)[1] not in Ports(port_range):
                flags = "--coordinator_address, --server_addresses"
                raise UsageError(f"{flags}: the port of {address} is outside cluster.port_range={port_range}.")

    @property
    def number(self) -> int:
        """Among the processes of its role."""
        return self.server_index if self.role == "server" else self.process_id

    @property
    def is_chief(self) -> bool:
        return self.role == "worker" and self.process_id == 0


def detect(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    server_addresses: Sequence[str] = (),
    server_index: int | None = None,
    role: str = "worker",
    run_id: str | None = None,
    insecure: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Cluster:
    """The cluster from flags, then JAX_* variables, then what Slurm, Open MPI or Kubernetes say; else one process.

    Args:
      insecure: `Security.insecure`.

    Raises:
      UsageError: incomplete or contradictory.
    """
    found: dict[str, Any] = {}
    for source in (_from_jax, _from_kubernetes, _from_open_mpi, _from_slurm):
        found = source(environ)
        if found:
            break
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    found |= {k: v for k, v in given.items() if v is not None}
    n = found.get("num_processes", 1)
    if n < 1:
        raise UsageError(f"--num_processes={n} must be at least 1.")
    run: dict[str, Any] = {"run_id": run_id or environ.get("JAXDIST_RUN_ID", ""), "job": _job(environ)}
    servers = _servers(role, server_addresses, server_index)
    security = Security.from_environ(environ, role, insecure=insecure)
    if role != "worker":
        return Cluster(role=role, security=security, **servers, **run)
    missing = [k for k in ("coordinator_address", "num_processes", "process_id") if k not in found]
    if server_addresses and "coordinator_address" in missing:  # theirs is the workers' rendezvous
        missing.remove("coordinator_address")
    if n > 1 or found.get("process_id", 0) != 0:
        if missing:
            flags = ", ".join(f"--{k}" for k in missing)
            raise UsageError(
                f"A run of several processes needs {flags} too (or the variables JAX_{missing[0].upper()}, ...)."
            )
        if not 0 <= found["process_id"] < n:
            raise UsageError(
                f"--process_id={found['process_id']} is out of range: with --num_processes={n} ids are 0 to {n - 1}."
            )
        _check_address("--coordinator_address=", found.get("coordinator_address", "none:0"))
    return Cluster(
        process_id=found.get("process_id", 0),
        num_processes=n,
        coordinator_address=found.get("coordinator_address", "") if n > 1 else "",
        security=security,
        **servers,
        **run,
    )


def _job(environ: Mapping[str, str]) -> str:
    """Of all processes of a job alike, whichever of its steps has started them."""
    slurm, open_mpi = environ.get("SLURM_JOB_ID"), environ.get("OMPI_MCA_ess_base_jobid")
    return f"Slurm job {slurm}" if slurm else f"Open MPI job {open_mpi}" if open_mpi else ""


def _check_address(name: str, address: str) -> None:
    """Refuses what is not 'host:port'."""
    host, _, port = address.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise UsageError(
            f"{name}{address!r} is not HOST:PORT; an IPv6 address stands in brackets, as in '[{host}]:{port}'."
        )
    if not re.fullmatch(_ADDRESS, address):
        raise UsageError(f"{name}{address!r} is not HOST:PORT.")
    if int(port) > 65535:
        raise UsageError(f"{name}{address!r}: ports are 0 to 65535.")


def _servers(role: str, addresses: Sequence[str], index: int | None) -> dict[str, Any]:
    """The fields about parameter servers, checked."""
    for address in addresses:
        _check_address("--server_addresses: ", address)
    twice = sorted({a for a in addresses if list(addresses).count(a) > 1})
    if twice:
        raise UsageError(f"--server_addresses names {twice[0]} twice: each server has an address of its own.")
    if role != "worker" and not addresses:
        raise UsageError(f"--role={role} needs --server_addresses=HOST:PORT,... (all servers, in order).")
    if role == "server" and not (index is not None and 0 <= index < len(addresses)):
        raise UsageError(f"--role=server needs --server_index, from 0 to {len(addresses) - 1}; it is {index}.")
    return {"server_addresses": tuple(addresses), "server_index": index or 0}


def _integer(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise UsageError(f"The variable {name}={environ[name]!r} is not a whole number.") from None


def _from_jax(environ: Mapping[str, str]) -> dict[str, Any]:
    return _from_names(environ, "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def _from_names(environ: Mapping[str, str], address: str, count: str, index: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if address in environ:
        found["coordinator_address"] = environ[address]
    if count in environ:
        found["num_processes"] = _integer(environ, count)
    if index in environ:
        found["process_id"] = _integer(environ, index)
    return found


def _from_kubernetes(environ: Mapping[str, str]) -> dict[str, Any]:
    """Kubeflow's variables, or an indexed Job whose manifest sets COORDINATOR_ADDRESS and NUM_PROCESSES."""
    if "KUBERNETES_SERVICE_HOST" not in environ or "COORDINATOR_ADDRESS" not in environ:
        return {}
    index = "PROCESS_ID" if "PROCESS_ID" in environ else "JOB_COMPLETION_INDEX"
    return _from_names(environ, "COORDINATOR_ADDRESS", "NUM_PROCESSES", index)


def _from_open_mpi(environ: Mapping[str, str]) -> dict[str, Any]:
    if environ.get("OMPI_COMM_WORLD_SIZE", "1") == "1":
        return {}
    found = _from_names(environ, "", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    # '1531576320.0;tcp://10.0.0.1,172.17.0.1:48887': where mpirun runs, which need not be where rank 0 runs but is
    # with the default mapping; Open MPI 5 does not set it, then --coordinator_address must be given.
    uri = re.search(r"tcp://\[?([^,:\]]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    if uri:
        job = int(environ["OMPI_MCA_orte_hnp_uri"].split(".", 1)[0])
        found["coordinator_address"] = f"{uri.group(1)}:{61440 + job % 4096}"
    return found


def _from_slurm(environ: Mapping[str, str]) -> dict[str, Any]:
    """Inside `srun` alone: an interactive allocation sets SLURM_* too, without being one of several tasks."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if any(n not in environ for n in names) or environ["SLURM_STEP_NUM_TASKS"] == "1":
        return {}
    host = re.sub(r"\[(\d+).*", r"\1", environ["SLURM_STEP_NODELIST"].split(",")[0])
    port = 61440 + _integer(environ, "SLURM_JOB_ID") % 4096  # the same on all, rarely shared between jobs
    return _from_names(environ, "", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID") | {"coordinator_address": f"{host}:{port}"}
