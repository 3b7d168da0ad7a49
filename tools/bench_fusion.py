"""The measurement `fusion` of tools/bench.py: what it costs to sum gradients in one collective, or in many.

    0 MB    forward, backward |=|=| ... |=|=| update     one collective for each array
    64 MB   forward, backward |=====| update             one for all of them, in a buffer

Figures are those of profiled steps of real runs, one process a host, pinned to a core in turn. The sides take turns, in
an order that is turned round each time. Sizes that divide a model into the same buffers are one side.
"""

from __future__ import annotations

import contextlib
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

import numpy as np
from bench_links import Unusable, links_of
from bench_train import ROOT, malloc, spread
from free_ports import free_port
from lab import Lab, NoLab
from lab_link import Link

LOOPBACK = "loopback"
WINDOW = (3, 11)  # updates that are profiled
_RUN_SECONDS = 900.0
_PORT = 9000
_SHOWN = ("step_ms", "inside_ms", "waiting_ms", "exchange_ms", "hidden_ms")
_COMPARED = ("step_ms", "inside_ms", "exchange_ms")


def options_of(
    model: str, processes: str, fusions: str, links: Sequence[str], batch: int, pairs: int
) -> tuple[list[int], list[float], list[Link | None]]:
    """Numbers of processes, megabytes, links (None: loopback).

    Raises: Unusable: they cannot be measured.
    """
    if min(batch, pairs) < 1:
        raise Unusable("--batch and --pairs are at least 1.")
    counts = _numbers(processes, int)
    if not counts or min(counts) < 2 or max(counts) > 64:
        raise Unusable(f"--processes={processes}: say how many, 2 to 64, as in --processes=2,5.")
    megabytes = _numbers(fusions, float)
    if not megabytes or not all(0 <= m < float("inf") for m in megabytes):
        raise Unusable(f"--fusion={fusions}: name the megabytes of a buffer, 0 or more, as in --fusion=0,1,4,64.")
    found = [link for text in links or [LOOPBACK] for link in ([None] if text == LOOPBACK else links_of([text]))]
    return counts, megabytes, list(dict.fromkeys(found))


def _numbers(text: str, kind: Any) -> list[Any]:
    try:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        return []


def measure(
    model: str, batch: int, counts: Sequence[int], fusions: Sequence[float], links: Sequence[Link | None], pairs: int
) -> Iterator[dict[str, Any]]:
    """One line for each number of processes, link and size of the buffer; `batch` is each process's.

    Raises: Unusable: this machine allows no laboratory.
    """
    buffers = buffers_of(model, fusions)
    sides = {f: max(other for other in fusions if buffers[other] == buffers[f]) for f in fusions}
    order = list(dict.fromkeys(sides.values()))
    for count in counts:
        for link in links:
            about = {"bench": "fusion", "model": model, "batch": batch, "processes": count}
            about |= {"link": LOOPBACK if link is None else str(link)}
            try:
                with contextlib.ExitStack() as stack:
                    lab = None if link is None else stack.enter_context(_lab(count, link))
                    rounds = [
                        {f: figures(lab, model, batch, count, f) for f in order[:: -1 if number % 2 else 1]}
                        for number in range(pairs)
                    ]
            except NoLab as e:
                raise Unusable(str(e)) from None
            except RuntimeError as e:
                yield about | {"error": str(e)}
                continue
            yield from (about | line for line in lines(rounds, sides, buffers))


def buffers_of(model: str, fusions: Sequence[float]) -> dict[float, list[list[int]]]:
    """Size -> the arrays in each buffer: gradients, statistics, and some numbers such as the loss."""
    import jax
    from bench_links import chain_of

    from jaxdist.comm.fused import plan_buffers

    shapes = chain_of(model).shapes.items()
    trees = [{name: pair[k] for name, pair in shapes if pair[k]} for k in (0, 1)]
    sizes = [(leaf.size * leaf.dtype.itemsize, str(leaf.dtype)) for leaf in jax.tree.leaves(trees)]
    return {megabytes: plan_buffers([*sizes, *[(4, "float32")] * 4], megabytes) for megabytes in fusions}


def _lab(count: int, link: Link) -> Lab:
    return Lab(count, link=link, cores=len(os.sched_getaffinity(0)))


def figures(lab: Lab | None, model: str, batch: int, count: int, megabytes: float) -> dict[str, float]:
    """Those of one run. Blocks until it has ended.

    Raises: RuntimeError: a process has failed. One sentence.
    """
    with tempfile.TemporaryDirectory() as folder:
        _train(lab, pathlib.Path(folder), {"model": model, "batch": batch, "hosts": count}, megabytes)
        return figures_of(pathlib.Path(folder) / "run" / "profile" / f"updates_{WINDOW[0]}-{WINDOW[1]}")


def figures_of(folder: pathlib.Path) -> dict[str, float]:
    """Of one step, the mean over the workers.

    Returns:
      collectives: calls. step_ms. inside_ms: during which at least one call was under way; of that waiting_ms for the
      slowest worker and exchange_ms, divided as the calls' own times are. hidden_ms: of inside_ms, during which the
      worker computed all the same. matched: share of the calls of which the waiting is known.

    Raises: RuntimeError: there is no whole profile of the window. One sentence.
    """
    from jaxdist.errors import UsageError
    from jaxdist.profiling.attribution import wall_time
    from jaxdist.profiling.merge import merge
    from jaxdist.profiling.naming import COLLECTIVES

    try:
        merged = merge([folder])
    except UsageError as e:
        raise RuntimeError(str(e)) from None
    found = []
    for part, splits in zip(merged.parts, merged.splits, strict=True):
        if part.cut or not splits:
            raise RuntimeError(part.cut or f"{part.process} was in no collective that the others were in.")
        times = np.array([row[2:4] for row in part.about["collectives"]])
        inside = 1e3 * wall_time(times[:, 0], times[:, 1]) / part.steps
        own = sum(row["self_ms"] for row in part.about["rows"] if row["kind"] in COLLECTIVES)
        waiting, exchange = (sum(getattr(s, f"{what}_ms") for s in splits) for what in ("waiting", "exchange"))
        share = waiting / (waiting + exchange) if waiting + exchange > 0 else 0.0
        found.append(
            {"collectives": sum(s.calls for s in splits), "step_ms": part.about["step_ms"], "inside_ms": inside,
             "waiting_ms": share * inside, "exchange_ms": (1 - share) * inside, "hidden_ms": max(inside - own, 0.0),
             "matched": min(s.matched for s in splits)}
        )  # fmt: skip
    return {key: statistics.mean(one[key] for one in found) for key in found[0]}


def lines(
    rounds: Sequence[dict[float, dict[str, float]]], sides: dict[float, float], buffers: dict[float, list[list[int]]]
) -> Iterator[dict[str, Any]]:
    """A line for each size: median [min, max] over the rounds, and ratios beside the largest size in the same round.

    Args:
      sides: size -> the size that was measured in its place, as it gives the same buffers.
    """
    beside = max(sides)
    for megabytes, side in sides.items():
        every = [taken[side] for taken in rounds]
        line: dict[str, Any] = {"fusion_megabytes": megabytes, "measured_as": side, "buffers": len(buffers[megabytes])}
        line |= {"rounds": len(rounds), "steps": WINDOW[1] - WINDOW[0]}
        line |= {key: round(statistics.median(one[key] for one in every), 3) for key in ("collectives", "matched")}
        line |= {key: spread([one[key] for one in every]) for key in _SHOWN}
        pairs = [(one, taken[beside]) for one, taken in zip(every, rounds, strict=True)]
        ratios = {key: spread([a[key] / b[key] for a, b in pairs if b[key]] or [0.0]) for key in _COMPARED}
        yield line | {f"beside_{beside:g}": ratios}


def _train(lab: Lab | None, folder: pathlib.Path, plan: dict[str, Any], megabytes: float) -> None:
    """Trains to the end of the window, with made-up images."""
    plan |= {"settings": {"name": "allreduce", "fusion_megabytes": megabytes}, "updates_a_note": 1000}
    config = folder / "config.py"
    config.write_text(f"import bench_links_host\n\nget_config = lambda: bench_links_host.config_of({plan!r})\n")
    address = f"{lab.addresses[0]}:{_PORT}" if lab is not None else f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "jaxdist.main", f"--config={config}", f"--workdir={folder / 'run'}"]
    command += [f"--num_processes={plan['hosts']}", f"--coordinator_address={address}"]
    command += [f"--config.profile.updates=({WINDOW[0]},{WINDOW[1]})", f"--config.max_updates={WINDOW[1]}"]
    environment = {**os.environ, **malloc("ours"), "PYTHONPATH": f"{ROOT}:{ROOT}/tools", "OMP_NUM_THREADS": "1"}
    environment |= {"JAXDIST_TOKEN": "of one measurement"}
    cores = sorted(os.sched_getaffinity(0))
    processes: list[subprocess.Popen[Any]] = []
    try:
        for host in range(plan["hosts"]):
            own = [*command, f"--process_id={host}"]
            with open(folder / f"{host}.log", "w") as log:
                how: dict[str, Any] = {"stdout": log, "stderr": log, "cwd": ROOT, "env": environment}
                if lab is not None:
                    processes.append(lab.popen(host, own, **how))
                else:
                    processes.append(subprocess.Popen(["taskset", "-c", str(cores[host % len(cores)]), *own], **how))
        end = time.monotonic() + _RUN_SECONDS
        while any(process.poll() is None for process in processes) and not any(p.returncode for p in processes):
            if time.monotonic() > end:
                raise RuntimeError(f"a run of {WINDOW[1]} updates did not end within {_RUN_SECONDS:.0f} s")
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for host, process in enumerate(processes):
        if process.returncode:
            words = " ".join((folder / f"{host}.log").read_text().strip().splitlines()[-1:])
            raise RuntimeError(f"process {host} ended with {process.returncode}: {words}")


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each line; medians."""
    rows = [
        "| model | processes | link | MB | buffers | calls | step ms | inside | waiting | exchange | hidden | ratio |",
        "|---" * 12 + "|",
    ]
    for line in found:
        cells = [line["model"], line["processes"], line["link"]]
        if "error" in line:
            rows.append(f"| {' | '.join(map(str, cells))} | failed" + " | " * 8 + "|")
            continue
        cells += [f"{line['fusion_megabytes']:g}", f"{line['buffers']}", f"{line['collectives']:g}"]
        cells += [f"{line[key]['median']:.1f}" for key in _SHOWN]
        ratio = next(value["step_ms"] for key, value in line.items() if key.startswith("beside_"))
        cells += [f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]"]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def main(model: str, processes: str, fusions: str, links: Sequence[str], batch: int, pairs: int) -> int:
    """Prints the lines, then the table; gives the exit code."""
    found = []
    try:
        counts, megabytes, wanted = options_of(model, processes, fusions, links, batch, pairs)
        for line in measure(model, batch, counts, megabytes, wanted, pairs):
            found.append(line)
            print(json.dumps(line), flush=True)
    except Unusable as e:
        print(f"bench: {e}", file=sys.stderr)
        return 2
    print(f"\n{table(found)}")
    return 1 if any("error" in line for line in found) else 0
