"""Runs of several real processes over loopback, each with a deadline."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from free_ports import free_port
from helpers.preloaded import Preloaded
from helpers.waiting import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]

TINY_CONFIG = "tests/helpers/tiny_config.py"


def long(*values):
    """A parameter set of `pytest.mark.parametrize` that the default suite leaves out."""
    return pytest.param(*values, marks=pytest.mark.long)


@dataclasses.dataclass
class Ended:
    code: int
    output: str

    @property
    def error(self) -> str:
        """The last error message, or an empty string."""
        found = [line for line in self.output.splitlines() if line.startswith("jaxdist: error:")]
        return found[-1] if found else ""


class Run:
    """N workers of one run, and parameter servers; those left are ended by id on leaving the `with`.

    With `servers_first` the workers are started when all servers answer.
    """

    def __init__(
        self,
        workdir,
        n=1,
        *,
        servers=0,
        servers_first=False,
        fault="",
        config=TINY_CONFIG,
        address=None,
        env=None,
        **overrides,
    ):
        if servers:
            overrides = {"strategy__name": "parameter_server"} | overrides
        port = free_port()
        self.processes = []
        self.servers = []
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in range(servers)]
        self._again = {"JAXDIST_FAULT": fault} | (env or {})
        listed = [f"--server_addresses={','.join(self.addresses)}"] if servers else []
        command = [*main_command(workdir, config=config, **overrides), *listed]
        self.commands = {}
        for j in range(servers):
            self.commands[f"server {j}"] = [*command, "--role=server", f"--server_index={j}"]
            self.servers.append(start(self.commands[f"server {j}"], self._again))
        for where in self.addresses if servers_first else ():
            wait_for_server(where)
        if n > 1 or address:
            command += [f"--num_processes={max(n, 2)}", f"--coordinator_address={address or f'127.0.0.1:{port}'}"]
        for i in range(n):
            self.commands[f"worker {i}"] = [*command, *([f"--process_id={i}"] if n > 1 or address else [])]
            self.processes.append(start(self.commands[f"worker {i}"], self._again))

    def restart(self, name: str) -> subprocess.Popen:
        """Starts 'server J' or 'worker I' again with the same command, without faults."""
        kind, number = name.split()
        processes = self.servers if kind == "server" else self.processes
        processes[int(number)].wait()
        processes[int(number)].communicate()
        processes[int(number)] = start(self.commands[name], self._again | {"JAXDIST_FAULT": ""})
        return processes[int(number)]

    def wait(self, seconds: float = 120, servers: bool = True) -> list[Ended]:
        """Of the workers, then of the servers, unless those may go on."""
        deadline = time.monotonic() + seconds
        ended = []
        for p in [*self.processes, *(self.servers if servers else ())]:
            out, _ = p.communicate(timeout=max(deadline - time.monotonic(), 0.1))
            ended.append(Ended(p.returncode, out))
        return ended

    def loses(self, victim: int, action: str, seconds: float = 25) -> None:
        """Asserts that the others end with 1 within that time of a fault and name the worker that it befell."""
        begin = time.monotonic()
        for i, p in enumerate(self.processes):
            if i == victim and action == "stop":
                continue
            output, _ = p.communicate(timeout=seconds + 15)
            if i == victim and action == "kill":
                assert p.returncode == -signal.SIGKILL
                continue
            assert p.returncode == 1, output[-2000:]
            if i != victim:
                assert f"process {victim} " in output.splitlines()[-1], output[-2000:]
        assert time.monotonic() - begin < seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for p in [*self.processes, *self.servers]:
            if p.poll() is None:
                p.send_signal(signal.SIGCONT)
                p.kill()
            p.communicate()


def main_command(workdir, *flags: str, config: str = TINY_CONFIG, **overrides) -> list[str]:
    """`python -m jaxdist.main` with these flags and overrides, in whose keys '__' stands for '.'."""
    values = [f"--config.{key.replace('__', '.')}={value}" for key, value in overrides.items()]
    return [sys.executable, "-m", "jaxdist.main", f"--config={config}", f"--workdir={workdir}", *values, *flags]


def start(command: list[str], env: dict[str, str], *, forked: bool = True) -> subprocess.Popen | Preloaded:
    """Starts a command from the project's root; what it prints on both streams is one output.

    `python -m MODULE` is forked from a process that has done the imports (`preloaded`), unless `forked` is False.
    """
    environ = environment() | env
    if forked and command[:2] == [sys.executable, "-m"]:
        return Preloaded(command[2], command[3:], cwd=ROOT, env=environ)
    return subprocess.Popen(command, cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


# Of a company's network, and nobody listens there: processes of a run must reach each other without it.
PROXIES = dict.fromkeys(
    ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"), "http://127.0.0.1:9"
) | dict.fromkeys(("no_proxy", "no_grpc_proxy", "NO_PROXY"), "")


def environment() -> dict[str, str]:
    """The variables of a process that a test starts."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_NUM_CPU")}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return kept | PROXIES | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


def events(workdir) -> list[dict]:
    """The event rows, in order."""
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "event"]


def finish(workdir, n=1, *, seconds: float = 120, **overrides) -> dict:
    """Runs to the end, which must be good; returns the summary."""
    with Run(workdir, n, **overrides) as run:
        for i, ended in enumerate(run.wait(seconds)):
            assert ended.code == 0, f"process {i} ended with {ended.code}:\n{ended.output[-3000:]}"
    return json.loads((pathlib.Path(workdir) / "summary.json").read_text())


def rows(workdir, kind: str) -> dict[int, dict]:
    """updates -> the last row of a kind, without times."""
    found = {}
    for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == kind:
            timed = ("time", "images_per_second", "step_ms", "data_wait_ms", "server_wait_ms", "network_wait_ms")
            found[row["updates"]] = {k: v for k, v in row.items() if k not in timed}
    return found


def wait_for_update(workdir, update: int, seconds: float = 90) -> None:
    """Blocks until the run has logged an update at or after `update`."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    wait_until(lambda: path.exists() and max(rows(workdir, "train"), default=0) >= update, f"update {update}", seconds)


def wait_for_event(workdir, event: str, after: int = -1, seconds: float = 90) -> None:
    """Blocks until the run has written an event of that name, at an update after `after`."""
    path = pathlib.Path(workdir) / "metrics.jsonl"

    def there() -> bool:
        return path.exists() and any(e["event"] == event and e["updates"] > after for e in events(workdir))

    wait_until(there, f"{event!r} after update {after}", seconds)


def wait_for_checkpoint(workdir, update: int, seconds: float = 90) -> None:
    """Blocks until a whole checkpoint of that update or a later one has its name."""
    wait_until(lambda: checkpoints(workdir)[-1:] >= [update], f"checkpoint of update {update}", seconds)


def checkpoints(workdir) -> list[int]:
    """The updates whose checkpoints have their names."""
    folders = (pathlib.Path(workdir) / "checkpoints").glob("*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def wait_for_server(address: str, seconds: float = 60) -> None:
    """Blocks until somebody listens at 'host:port'."""
    host, _, port = address.rpartition(":")

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
            return True
        return False

    wait_until(listens, f"server at {address}", seconds)
