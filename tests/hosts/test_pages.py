"""The commands that the pages give for several hosts, on hosts with Debian's names: all processes end with exit code 0.

They are the pages' own text, with the placeholders filled in, and cut short (`SHORT`).
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest
from helpers import pages
from helpers.hosts import lab_of
from helpers.processes import ROOT, environment
from helpers.waiting import wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.long]

PAGE = "jaxdist/cluster/README.md"
# In place of Fashion-MNIST, which must be downloaded: scikit-learn's digits, some of them. In place of a DenseNet of 40
# layers: the tests' chain. In place of 40 epochs: a few updates.
SHORT = {
    "data.name": "digits",
    "data.train_examples": 120,
    "data.eval_examples": 24,
    "model.name": "helpers.tiny_chain:build",
    "global_batch_size": 12,
    "max_updates": 3,
}
SECONDS = 400  # quiet: 60; other work on the machine


class Started:
    """Processes on hosts, each a shell that runs a script of a page; their output is in files."""

    def __init__(self, lab, place: pathlib.Path) -> None:
        self._lab, self._place = lab, place
        self._processes: dict[pathlib.Path, subprocess.Popen] = {}

    def start(self, host: int, lines: Sequence[str], environ: Mapping[str, str] | None = None, **more) -> pathlib.Path:
        """The lines as host `host` runs them, all that they write below the place; the last one is cut short."""
        values = " ".join(f"--config.{key}={value}" for key, value in (SHORT | more).items())
        script = re.sub(r"\bruns/", f"{self._place}/", "\n".join(lines)) + f" {values}\n"
        output = self._place / f"{len(self._processes)}.txt"
        own = {"PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | dict(environ or {})
        with output.open("w") as file:
            options = {"stdout": file, "stderr": subprocess.STDOUT, "cwd": ROOT, "env": environment() | own}
            self._processes[output] = self._lab.popen(host, ["bash", "-e", "-c", script], **options)
        return output

    def all_end_well(self) -> None:
        for output, process in self._processes.items():
            assert process.wait(SECONDS) == 0, output.read_text()[-3000:]
            assert output.read_text().splitlines()[-1].startswith("jaxdist: done"), output.read_text()[-3000:]


def block_with(page: str, words: str) -> pages.Block:
    """The one block of a page that has these words."""
    (found,) = [block for block in pages.blocks(page) if words in block.text]
    return found


def filled(lines: Sequence[str], *, port: int, index: int = 0, hosts: int = 0) -> list[str]:
    """The lines with a page's placeholders replaced; `hosts`: their number, also where the page says 2."""
    text = "\n".join(lines).replace("HOST0:PORT", f"h0:{port}").replace("=SECRET", "=a-secret-of-these-tests")
    text = re.sub(r"--num_processes=(N|2)\b", f"--num_processes={hosts}", text)
    return re.sub(r"--process_id=I\b", f"--process_id={index}", text).splitlines()


def split(block: pages.Block) -> tuple[list[str], list[str]]:
    """(what every host sets, the commands that start a process)."""
    common = [line for line in block.commands if not line.startswith("python ")]
    return common, [line for line in block.commands if line.startswith("python -m jaxdist.main")]


@pytest.mark.timeout(900)
def test_the_readmes_commands_on_two_and_three_hosts(tmp_path):
    common, (command,) = split(block_with("README.md", "--process_id=I"))
    with lab_of(3, names="debian") as lab:
        started = []
        for hosts in (2, 3):
            (tmp_path / f"{hosts}").mkdir()
            started.append(Started(lab, tmp_path / f"{hosts}"))
            for host in range(hosts):
                started[-1].start(host, filled([*common, command], port=9000 + hosts, index=host, hosts=hosts))
        for one in started:
            one.all_end_well()


@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("openssl"), reason="the recipe needs openssl")
def test_the_pages_commands_with_the_pages_certificates(tmp_path):
    """A pipeline, whose processes all listen, and servers, whose workers and evaluator have the authority alone."""
    for name in ("together", "servers"):
        (tmp_path / name).mkdir()
    common, (together,) = split(block_with(PAGE, "--process_id=I --coordinator_address"))
    for_servers, (server, worker, evaluator) = split(block_with(PAGE, "--role=evaluator"))
    assert "--role=server" in server and "--process_id=I" in worker
    with lab_of(3, names="debian") as lab:
        environs = certificates(lab.names, lab.addresses, tmp_path / "certificates")
        authority_alone = {"JAXDIST_TLS_CA": environs[0]["JAXDIST_TLS_CA"]}
        servers = Started(lab, tmp_path / "servers")
        # It comes first, and is there before the run, which is over in a moment.
        said = servers.start(2, filled([*for_servers, evaluator], port=9100), authority_alone, max_updates=20)
        run = Started(lab, tmp_path / "together")
        more = {"strategy.name": "pipeline", "strategy.num_microbatches": 2}
        for host in range(3):
            run.start(host, filled([*common, together], port=9000, index=host, hosts=3), environs[host], **more)
        wait_until(lambda: "Waiting for the parameter server" in said.read_text(), "the evaluator", 200)
        servers.start(0, filled([*for_servers, server], port=9100), environs[0], max_updates=20)
        for host in range(2):
            lines = filled([*for_servers, worker], port=9100, index=host, hosts=2)
            servers.start(host, lines, authority_alone, max_updates=20)
        run.all_end_well()
        servers.all_end_well()


def certificates(names: Sequence[str], addresses: Sequence[str], folder: pathlib.Path) -> list[dict[str, str]]:
    """Each host's variables, after the page's recipe was followed in a folder."""
    folder.mkdir()
    block = block_with(PAGE, "openssl")
    once, *each = [line for line in block.commands if line.startswith("openssl ")]
    (export,) = [line for line in block.commands if line.startswith("export ")]
    subprocess.run(["bash", "-e", "-c", once], cwd=folder, check=True, capture_output=True)
    found = []
    for name, address in zip(names, addresses, strict=True):
        script = "\n".join([*each, export]).replace("HOST", name).replace("ADDRESS", address)
        subprocess.run(["bash", "-e", "-c", script], cwd=folder, check=True, capture_output=True)
        set_there = script.splitlines()[-1].removeprefix("export ").split()
        found.append({variable: str(folder / file) for variable, file in (word.split("=") for word in set_there)})
    return found
