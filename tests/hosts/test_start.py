"""What keeps the processes of a run on several hosts from coming together: every host says it, in one sentence.

    JAXDIST_TEST_TABLE=table.md python -m pytest -m long tests/hosts/test_start.py      writes what was said as a table

Each situation is a run of its own; several share a laboratory, each at a port of its own.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.certificates import issued, variables
from helpers.hosts import lab_of
from helpers.processes import environment, main_command

pytestmark = [pytest.mark.hosts, pytest.mark.long]

CONNECT = 20.0  # seconds: cluster.connect_timeout_seconds; longer than a busy machine's interpreters come apart
SECRET = {"JAXDIST_TOKEN": "a secret of these tests"}
LATE = CONNECT + 55.0  # with the start of a busy machine's interpreters
AT_ONCE = 55.0


@dataclasses.dataclass(frozen=True)
class Process:
    """One of a run, on host `host`; in flags and expected words PORT stands for the run's port.

    Attributes:
      expected: in its last line; '' where it is only an extra in somebody else's situation.
      within: seconds that it may take.
    """

    host: int
    flags: tuple[str, ...]
    expected: str
    code: int = 2
    within: float = LATE
    environ: dict[str, str] = dataclasses.field(default_factory=lambda: SECRET)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def process(i: int, expected: str, *, host: int = -1, at: str = "h0", n: int = 2, more: tuple = (), **other) -> Process:
    flags = (f"--num_processes={n}", f"--process_id={i}", f"--coordinator_address={at}:PORT", *more)
    return Process(host if host >= 0 else i, flags, expected, **other)


SERVERS = {"strategy__name": "parameter_server"}
STAGES = {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"}
ON_SOME_HOSTS = {"data__name": "helpers.faulty_data:on_some_hosts"}
LISTED = ("--server_addresses=h2:PORT",)
SITUATIONS: dict[str, list[Process]] = {
    "the coordinator's name is not known on a host": [
        process(0, "process 1 of 2 did not come to 'versions and configuration' within 20 s (process 1: never"),
        process(1, "s: this host does not know the name h9", at="h9"),
    ],
    "no route leads to the coordinator": [process(1, "no route leads from this host to 192.0.2.1", at="192.0.2.1")],
    "process 0 is not there": [process(1, "h0 (10.77.0.1) is there, but nothing listens at its port PORT: not yet")],
    "process 0 alone is there": [process(0, "(process 1: never heard of)")],
    "its host is off": [process(1, "it is off, ", at="10.77.0.99")],
    "another program has the port": [
        Process(0, ("PROGRAM",), "", code=-9),
        process(1, "something listens at 10.77.0.1:PORT that does not answer: it is another program, or TLS is"),
    ],
    "another port on one host": [
        process(0, "(process 1: never heard of)"),
        process(1, "but nothing listens at its port 1", at="h0:1#"),
    ],
    "process 0 is started on another host": [
        process(0, "nothing listens at its port PORT", host=1),
        process(1, "that name leads to this host itself", host=0),
    ],
    "one id twice": [
        process(0, "process 2: never heard of", n=3, host=0),
        process(1, "", n=3, host=1),
        process(1, "", n=3, host=2),
    ],
    "no token on one host": [
        process(0, "(process 1: never heard of; a process at 10.77.0.2 was refused: the token is missing or"),
        process(1, "--coordinator_address=h0:PORT: the token is missing or another one (JAXDIST_TOKEN).",
                environ={"JAXDIST_TOKEN": "another"}, within=AT_ONCE),
    ],
    "no token at all": [
        process(i, "--coordinator_address=h0:PORT can be reached from other machines, by anybody: set the variable",
                environ={}, within=AT_ONCE)
        for i in range(2)
    ],
    "servers without a token": [
        *(process(i, "can be reached from other machines, by anybody", more=LISTED, environ={}, within=AT_ONCE,
                  settings=SERVERS) for i in range(2)),
        Process(2, (*LISTED, "--role=server", "--server_index=0"),
                "--server_addresses: h2:PORT can be reached from other machines, by anybody", environ={},
                within=AT_ONCE, settings=SERVERS),
    ],
    "the server is not there": [
        process(0, "(h2 (10.77.0.3) is there, but nothing listens at its port PORT: not yet, no more, or", more=LISTED,
                settings=SERVERS),
    ],
    "TLS on one side alone": [
        process(0, "(process 1: never heard of)", environ=SECRET | {"TLS": "h0"}, ),
        process(1, "that does not answer: it is another program, or TLS is set up on one side alone",
                ),
    ],
    "another library on one host": [
        process(0, "do not agree on versions and configuration: optax is", within=AT_ONCE),
        process(1, 'but "0.0.1" on process 1', within=AT_ONCE, environ=SECRET | {"OPTAX": "0.0.1"}),
    ],
    "another seed on one host": [
        process(0, "do not agree on versions and configuration: seed is 0 on process 0 but 5 on", within=AT_ONCE),
        process(1, "seed is 0 on process 0 but 5 on process 1", within=AT_ONCE, settings={"seed": 5}),
    ],
    "the data is missing on one host": [
        process(0, "process 1 failed: data: the folder nowhere is not on this host", within=AT_ONCE,
                environ=SECRET | {"JAXDIST_TEST_IMAGES": "/"}, settings=ON_SOME_HOSTS),
        process(1, "data: the folder nowhere is not on this host", within=AT_ONCE,
                settings=ON_SOME_HOSTS),
    ],
    "an address of another host": [
        process(0, "process 1 failed: cluster.address='10.77.0.1' is no address", within=AT_ONCE),
        process(1, "cluster.address='10.77.0.1' is no address, name or interface of this host, which has",
                settings={"cluster__address": "10.77.0.1"}, within=AT_ONCE),
    ],
    "too few ports": [
        process(0, "process 1 failed: cluster.port_range=PORT-PORT: all 1 ports are taken on this host, and a channel",
                settings=STAGES, within=AT_ONCE),
        process(1, "cluster.port_range=PORT-PORT: all 1 ports are taken on this host, and a channel needs one",
                settings=STAGES | {"cluster__port_range": "PORT-PORT"},
                within=AT_ONCE, environ=SECRET | {"TAKE": "PORT"}),
    ],
}  # fmt: skip
TOGETHER = 3  # situations that run at once: two cores start their interpreters


@pytest.mark.timeout(900)
def test_every_host_says_what_it_is(tmp_path):
    rows: list[str] = []
    with lab_of(3, names="debian") as lab, ThreadPoolExecutor(TOGETHER) as pool:
        assert lab.addresses == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
        runs = [
            pool.submit(_run, lab, tmp_path / str(number), 9000 + number, name, processes)
            for number, (name, processes) in enumerate(SITUATIONS.items())
        ]
        problems = []
        for run in runs:
            found, wrong = run.result(600)
            rows += found
            problems += wrong
    if where := os.environ.get("JAXDIST_TEST_TABLE"):
        header = "| What is wrong | Host | Exit code | Seconds | Its last line |\n|---|---|---|---|---|\n"
        pathlib.Path(where).write_text(header + "".join(rows))
    assert not problems, "\n".join(problems)


def _run(lab, place: pathlib.Path, port: int, name: str, processes: list[Process]) -> tuple[list[str], list[str]]:
    """(rows of the table, what was not as expected)."""
    place.mkdir()
    started, helpers = [], []
    begin = time.monotonic()
    for number, one in enumerate(processes):
        if one.flags == ("PROGRAM",):
            helpers.append(
                lab.popen(one.host, [sys.executable, "-m", "http.server", str(port)], stderr=subprocess.DEVNULL)
            )
            continue
        if "TAKE" in one.environ:
            program = f"import socket, time; s = socket.create_server(('', {port})); time.sleep(600)"
            helpers.append(lab.popen(one.host, [sys.executable, "-c", program]))
        env = environment() | _environ(one, place, number)
        settings = {"cluster__connect_timeout_seconds": str(CONNECT)} | {
            k: str(v).replace("PORT", str(port)) for k, v in one.settings.items()
        }
        flags = [flag.replace("PORT", str(port)).split("#")[0] for flag in one.flags]
        command = main_command(place / "run", *flags, **settings)
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": env}
        started.append((one, lab.popen(one.host, command, **options)))
    rows, wrong = [], []
    with ThreadPoolExecutor(len(started)) as pool:
        waiting = [pool.submit(_ended, child, begin) for _, child in started]
        for (one, child), waited in zip(started, waiting, strict=True):
            output, seconds = waited.result()
            last = output.splitlines()[-1] if output else ""
            rows.append(
                f"| {name} | h{one.host} | {child.returncode} | {seconds:.0f} | {last} |\n".replace(str(port), "7700")
            )
            good = child.returncode == one.code and one.expected.replace("PORT", str(port)) in last
            if not good or seconds > one.within:
                wrong.append(f"{name}, h{one.host}: {child.returncode} after {seconds:.0f} s: {output[-1500:]}")
    for helper in helpers:
        helper.kill()
        helper.wait()
    return rows, wrong


def _ended(child: subprocess.Popen, begin: float) -> tuple[str, float]:
    try:
        output = child.communicate(timeout=200)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        output = child.communicate()[0] + "\n(it did not end)"
    return output, time.monotonic() - begin


def _environ(one: Process, place: pathlib.Path, number: int) -> dict[str, str]:
    """Its variables; some stand for what is prepared in a folder."""
    found = {k: v for k, v in one.environ.items() if k not in ("TLS", "OPTAX", "TAKE")}
    if "TLS" in one.environ:
        found |= variables(issued(one.environ["TLS"]), place / f"{number}")
    if "OPTAX" in one.environ:
        info = place / "packages" / "optax-0.0.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: optax\nVersion: {one.environ['OPTAX']}\n")
        found["PYTHONPATH"] = os.pathsep.join([str(info.parent), environment()["PYTHONPATH"]])
    return found
