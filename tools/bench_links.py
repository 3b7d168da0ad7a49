"""The measurement `train --link` of tools/bench.py: training between hosts of a laboratory, under each strategy.

    h0 worker ---+                  after each update a worker notes the time, how many examples were trained on,
    h1 worker ---+--- link          and the counters of its host's interface (`bench_links_host.py`); the link changes
    h2 server ---+                  while they train, and this file looks at the notes since then

One process a host, pinned to a core in turn. A parameter server has a host, and so a link, of its own. The workers run
the training loop of `jaxdist.main`; nothing of start-up or compilation is in any figure.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench_links_needed import Bytes, bytes_of, excess, needed
from bench_train import MODELS, ROOT, malloc, spread
from lab import Lab, NoLab
from lab_link import Link

HEADERS = 66  # of a frame: Ethernet 14, IPv4 20, TCP with time stamps 32; a pure acknowledgement is no more than that
ALL_LINKS = ("free", "1gbit", "100mbit", "10mbit")
STRATEGIES: dict[str, dict[str, Any]] = {
    "allreduce": {"name": "allreduce"},
    "fsdp": {"name": "model_parallel", "shard_params": "fsdp", "sync_batch_norm": False},
    "zero1": {"name": "model_parallel", "shard_params": "zero1", "sync_batch_norm": False},
    "server_rounds": {"name": "parameter_server", "max_staleness": 0},
    "server_async": {"name": "parameter_server", "max_staleness": -1},
    "pipeline": {"name": "pipeline"},
}
TORCH = "torch"
_SWITCH_RATE = 100e6  # bits a second: what the laboratory's switch in user space does with ease
_REPETITION_SECONDS = 1.5
_START_SECONDS = 600.0


class Unusable(Exception):
    """What was asked for cannot be measured. One sentence."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What one laboratory measures: `batch` of each process; `repetitions` at each link, within `seconds` if it can."""

    strategy: str
    model: str
    batch: int
    hosts: int
    links: tuple[Link, ...]
    repetitions: int
    seconds: float

    @property
    def global_batch(self) -> int:
        return self.batch * self.hosts

    @property
    def has_server(self) -> bool:
        return self.strategy.startswith("server_")


def links_of(texts: Sequence[str]) -> list[Link]:
    """Raises: Unusable: one cannot be read, or is beyond what the laboratory can do."""
    found: list[Link] = []
    for text in texts:
        for one in ALL_LINKS if text == "all" else [text]:
            try:
                link = Link.parse(one)
            except ValueError as e:
                raise Unusable(f"--link={one}: {e}.") from None
            if not link.only_rate and not 0 < link.rate <= _SWITCH_RATE:
                raise Unusable(f"--link={one}: delays and losses need a rate of at most 100mbit here.")
            found.append(link)
    return list(dict.fromkeys(found))


def hosts_of(text: str) -> list[int]:
    """Raises: Unusable: not numbers of hosts."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 2 or max(found) > 64:
        raise Unusable(f"--hosts={text}: say how many, 2 to 64, as in --hosts=2 or --hosts=2,4.")
    return list(dict.fromkeys(found))


def strategies_of(text: str, against: str) -> list[str]:
    """Raises: Unusable: an unknown one, or PyTorch is not installed."""
    named = list(STRATEGIES) if text == "all" else (text or "allreduce").split(",")
    unknown = [name for name in named if name not in STRATEGIES]
    if unknown:
        raise Unusable(f"--strategy={unknown[0]}: over links there are all, {', '.join(STRATEGIES)}.")
    if against and importlib.util.find_spec("torch") is None:
        raise Unusable("--against=torch needs the package torch, which is not installed here.")
    return list(dict.fromkeys([*([TORCH] if against else []), *named]))


def measure(
    links: Sequence[Link], hosts: Sequence[int], strategies: Sequence[str], model: str, batch: int, pairs: int,
    seconds: float,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One line for each strategy, number of hosts and link.

    Raises:
      Unusable: this machine allows no laboratory.
    """
    kinds = [tuple(link for link in links if link.only_rate is kind) for kind in (True, False)]
    for count in hosts:
        theirs: dict[str, float] = {}
        for strategy in strategies:
            for same in filter(None, kinds):  # a switch in user space would hold back the links that need none
                for line in _measured(Case(strategy, model, batch, count, same, pairs, seconds)):
                    if strategy == TORCH and "images_per_second" in line:
                        theirs[line["link"]] = line["images_per_second"]["median"]
                    elif line["link"] in theirs and "images_per_second" in line:
                        line["ratio"] = round(line["images_per_second"]["median"] / theirs[line["link"]], 3)
                    yield line


def _measured(case: Case) -> Iterator[dict[str, Any]]:
    about = {"bench": "links", "strategy": case.strategy, "model": case.model, "batch": case.batch, "hosts": case.hosts}
    shaped = not case.links[0].only_rate
    cores = len(os.sched_getaffinity(0))
    done: list[str] = []
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Lab(case.hosts + case.has_server, shaped=shaped, cores=cores) as lab,
        ):
            run = _Run(case, lab, folder)
            for link in case.links:
                line = about | {"link": str(link)} | run.at(link)
                done.append(str(link))
                yield line
    except NoLab as e:
        raise Unusable(str(e)) from None
    except RuntimeError as e:
        for link in case.links[len(done) :]:
            yield about | {"link": str(link), "error": str(e)}


class _Run:
    """The processes of a case, and their notes. The laboratory ends them."""

    def __init__(self, case: Case, lab: Lab, folder: str) -> None:
        self._case, self._lab, self._folder = case, lab, folder
        self._notes = [f"{folder}/{host}.jsonl" for host in range(len(lab.names))]
        plan: dict[str, Any] = {"model": case.model, "batch": case.batch, "hosts": case.hosts, "folder": folder}
        plan |= {"settings": STRATEGIES.get(case.strategy, {}), "addresses": lab.addresses}
        plan |= {"updates_a_note": case.hosts if case.strategy == "server_async" else 1}  # an update is one push there
        if case.strategy == TORCH:
            save_weights(case.model, f"{folder}/weights.npz")
        environment = {**os.environ, **malloc(case.strategy), "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
        environment |= {"JAXDIST_TOKEN": "of one measurement"}
        self._processes: list[subprocess.Popen[Any]] = []
        for host in range(len(lab.names)):
            role = TORCH if case.strategy == TORCH else "worker" if host < case.hosts else "server"
            own = plan | {"role": role, "index": host, "notes": self._notes[host]}
            command = [sys.executable, f"{ROOT}/tools/bench_links_host.py", json.dumps(own)]
            with open(f"{folder}/{host}.log", "w") as log:
                # Its standard input ends with this process, whatever ends it, and the host's process with that.
                options: dict[str, Any] = {"stdout": log, "stderr": log, "stdin": subprocess.PIPE, "cwd": ROOT}
                self._processes.append(lab.popen(host, command, env=environment, **options))
        self._wait(lambda: all(len(rows) >= 3 for rows in self._rows()[: case.hosts]), _START_SECONDS)

    def at(self, link: Link) -> dict[str, Any]:
        """Measures at a link. Blocks for about `case.seconds` at most, and for one update if that takes longer.

        Raises:
          RuntimeError: a process has ended, or there was no update for minutes. One sentence.
        """
        case = self._case
        self._lab.set_link(link)
        begin, cpu = time.time(), self._lab.seconds_of_cpu()
        chosen: list[dict[str, Any]] = []

        def enough() -> bool:
            fresh = [row for row in self._rows()[0] if row["time"] > begin][1:]  # the first began on the old link
            chosen[:] = repetitions(fresh, _REPETITION_SECONDS)
            late = time.time() - begin > case.seconds and len(chosen) > 1
            return len(chosen) > case.repetitions or late

        self._wait(enough, case.seconds + 200)
        del chosen[case.repetitions + 1 :]
        last = chosen[-1]["examples"]
        self._wait(lambda: all(rows[-1]["examples"] >= last for rows in self._rows()[: case.hosts]), 120)
        switch = self._lab.seconds_of_cpu() - cpu
        line = summary(case, chosen, self._rows(), model_bytes(case.model))
        if switch:
            line["switch_cpu_share"] = round(switch / (time.time() - begin), 3)
        return line

    def _rows(self) -> list[list[dict[str, Any]]]:
        found = []
        for path in self._notes:
            lines = pathlib.Path(path).read_text().split("\n")[:-1] if os.path.exists(path) else []
            found.append([json.loads(line) for line in lines])
        return found

    def _wait(self, met: Any, seconds: float) -> None:
        end = time.time() + seconds
        while not met():
            for host, process in enumerate(self._processes):
                if process.poll() is not None:
                    with open(f"{self._folder}/{host}.log") as log:
                        words = " ".join(log.read().strip().splitlines()[-1:])
                    raise RuntimeError(f"the process on host {host} ended with {process.returncode}: {words}")
            if time.time() > end:
                raise RuntimeError(f"nothing came for {seconds:.0f} s")
            time.sleep(0.1)


def repetitions(rows: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """The first of the notes, and each that comes at least `seconds` after the one before it that was taken."""
    taken = list(rows[:1])
    for row in rows[1:]:
        if row["time"] - taken[-1]["time"] >= seconds and row["examples"] > taken[-1]["examples"]:
            taken.append(row)
    return taken


def summary(
    case: Case, chosen: Sequence[dict[str, Any]], rows: Sequence[Sequence[dict[str, Any]]], model: Bytes
) -> dict[str, Any]:
    """A line's figures. `chosen`: the first worker's notes, ends of repetitions; `rows`: all notes of all hosts."""
    pairs = list(itertools.pairwise(chosen))
    rates = [(b["examples"] - a["examples"]) / (b["time"] - a["time"]) for a, b in pairs]
    sent: list[float] = []
    received: list[float] = []
    for host, own in enumerate(rows):
        if host < case.hosts:
            first, last = (next(r for r in own if r["examples"] >= end["examples"]) for end in (chosen[0], chosen[-1]))
            steps = (last["examples"] - first["examples"]) / case.global_batch
        else:  # a server
            first, last = (min(own, key=lambda r: abs(r["time"] - end["time"])) for end in (chosen[0], chosen[-1]))
            steps = (chosen[-1]["examples"] - chosen[0]["examples"]) / case.global_batch
        for way, into in (("tx", sent), ("rx", received)):
            into.append(payload(first, last, way) / max(steps, 1e-9))
    stages = chosen[-1].get("stage_bytes_sent")
    wanted = needed(case.strategy, case.hosts, model, stages)
    workers = slice(case.hosts)
    line: dict[str, Any] = {
        "images_per_second": spread(rates), "step_ms": spread([1000 * case.global_batch / rate for rate in rates]),
        "steps": round((chosen[-1]["examples"] - chosen[0]["examples"]) / case.global_batch, 1),
        "sent": [round(b) for b in sent], "received": [round(b) for b in received],
        "needed_sent": [round(s) for s, _ in wanted], "needed_received": [round(r) for _, r in wanted],
        "excess_percent": [
            excess(sent[workers], [s for s, _ in wanted[workers]]),
            excess(received[workers], [r for _, r in wanted[workers]]),
        ],
    }  # fmt: skip
    return line


def payload(first: dict[str, Any], last: dict[str, Any], way: str) -> int:
    """Bytes between two notes, 'tx' or 'rx', without the headers of their frames."""
    frames = last[f"{way}_packets"] - first[f"{way}_packets"]
    return last[f"{way}_bytes"] - first[f"{way}_bytes"] - HEADERS * frames


def model_bytes(model: str) -> Bytes:
    return bytes_of(chain_of(model).shapes)


def chain_of(model: str) -> Any:
    """One of `MODELS`, built."""
    from jaxdist import models

    return models.build(**MODELS[model], num_outputs=10, options={})


def save_weights(model: str, path: str) -> None:
    """Initial weights by their paths, for PyTorch to begin with."""
    import numpy as np

    from jaxdist.optim import optimizers
    from jaxdist.state import flatten
    from jaxdist.task import Task

    params = Task(chain_of(model), optimizers.build("sgd"), lambda seen: 0.1).init().params
    weights = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    np.savez(path, allow_pickle=False, **weights)


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each strategy and number of hosts: images/s by link, then kB that a worker's host receives in
    a step (over all hosts as many are sent, but a note is taken when everything has come and not yet all has left)."""
    links = list(dict.fromkeys(line["link"] for line in lines))
    rows = [
        f"| strategy | hosts | {' | '.join(links)} | kB a step | needed | excess % |",
        "|---" * (len(links) + 5) + "|",
    ]
    for key in dict.fromkeys((line["strategy"], line["hosts"]) for line in lines):
        own = {line["link"]: line for line in lines if (line["strategy"], line["hosts"]) == key}
        good = [line for line in own.values() if "error" not in line]
        cells = [_cell(own.get(link)) for link in links]
        if good:
            for name in ("received", "needed_received"):
                cells.append(f"{statistics.mean(sum(line[name][: key[1]]) / key[1] / 1000 for line in good):.0f}")
            above = [line["excess_percent"][1] for line in good]
            cells.append(f"{min(above):.1f} to {max(above):.1f}")
        rows.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(line: dict[str, Any] | None) -> str:
    if line is None or "error" in line:
        return "-" if line is None else "failed"
    rate = line["images_per_second"]
    against = f" ({line['ratio']:.2f})" if "ratio" in line else ""
    return f"{rate['median']:.0f} [{rate['min']:.0f}, {rate['max']:.0f}]{against}"
