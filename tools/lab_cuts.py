"""Cuts links at random moments of tiny runs in a laboratory: who hangs, who ends, whose numbers change?

    python tools/lab_cuts.py --cuts=20 --seed=1 [--strategies=allreduce,servers] [--workdir=runs/cuts]

Each strategy first trains once without a cut. Then come runs that are each cut once: one host's link is down for 1 to
20 s, from a moment anywhere between the first line of process 0's log, when it has not called anybody yet, and the end
of the run. In the first 40 % of the moments it starts, for as long as the uncut run did; the rest are examples that it
has trained, for a machine has no steady speed. Several runs share a laboratory, each on hosts of its own: two with a
worker, and one with the server (`lab_run.py`). One line of JSON a cut; the exit code is 1 where one was not good.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import pathlib
import queue
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

from lab import Lab, NoLab
from lab_run import (
    HOSTS,
    PATIENCE,
    QUICKLY,
    STRATEGIES,
    WITH_SERVER,
    Outcome,
    Part,
    doing,
    metrics_of,
    newest,
    parts,
    run,
    seconds_of_start,
)

EXACT = ("allreduce", "fsdp", "pipeline", "rounds")  # their numbers do not depend on who is when how fast
START = 0.4  # share of the moments in which a run starts
SHORTEST, LONGEST = 1.0, 20.0  # seconds of a cut
OTHER_NUMBERS = "other numbers than those of the uncut run"


@dataclasses.dataclass(frozen=True)
class Cut:
    """One link that is down once.

    Attributes:
      host: 0 and 1 have a worker each, 2 the server.
      moment: when, as a share of the run, 0 to 1.
      later: seconds after that moment, where it is one of training; 0 to 2.
      seconds: how long.
    """

    number: int
    strategy: str
    host: int
    moment: float
    later: float
    seconds: float


def draw(count: int, seed: int, strategies: Sequence[str]) -> list[Cut]:
    """Random cuts, the strategies in turn."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        strategy = strategies[number % len(strategies)]
        host = chance.randrange(3 if strategy in WITH_SERVER else 2)
        moment, later = chance.random(), chance.uniform(0.0, 2.0)
        found.append(Cut(number + 1, strategy, host, moment, later, chance.uniform(SHORTEST, LONGEST)))
    return found


def await_moment(workdir: pathlib.Path, cut: Cut, start: float, total: int) -> None:
    """Blocks until the moment of a cut has come in a run that needs `start` seconds to start, and has `total` examples;
    not much longer than the run itself."""
    if cut.moment < START:
        return time.sleep(1.2 * start * cut.moment / START)  # the first step is compiled, too
    deadline = time.monotonic() + PATIENCE
    while newest(workdir, "examples_seen") < total * (cut.moment - START) / (1 - START):
        if "jaxdist: " in doing(workdir)[0] or time.monotonic() > deadline:
            return
        time.sleep(0.05)
    time.sleep(cut.later)


def compare(strategy: str, found: Outcome, uncut: Outcome) -> tuple[str, dict[str, Any]]:
    """(what is wrong with the numbers of a run that ended well, or ''; what was looked at)."""
    from helpers.outcomes import final_state  # loads JAX

    from jaxdist.state import flatten

    state, wanted = final_state(found.workdir), final_state(uncut.workdir)
    arrays, wanted_arrays = flatten(state.arrays()), flatten(wanted.arrays())
    equal = arrays.keys() == wanted_arrays.keys() and all((arrays[n] == wanted_arrays[n]).all() for n in arrays)
    loss, uncut_loss = _loss(found.workdir), _loss(uncut.workdir)
    seen = {"equal": bool(equal), "examples_seen": state.examples_seen, "loss": loss, "uncut_loss": uncut_loss}
    if state.examples_seen != wanted.examples_seen:
        return f"{state.examples_seen} examples, not {wanted.examples_seen}", seen
    if strategy in EXACT and not equal:
        return OTHER_NUMBERS, seen
    if not (math.isfinite(loss) and loss < 2 * uncut_loss + 1):
        return f"a loss of {loss:.3g}, not {uncut_loss:.3g}", seen
    return "", seen


def _loss(workdir: pathlib.Path) -> float:
    """Of the holdout at the end."""
    rows = map(json.loads, reversed(metrics_of(workdir).splitlines()))
    return next((row["loss"] for row in rows if row["kind"] == "eval"), math.nan)


def row(cut: Cut, seed: int, found: Outcome, uncut: Outcome) -> dict[str, Any]:
    """The line of one cut; `problem` is '' where all was good."""
    about = {
        "cut": cut.number,
        "strategy": cut.strategy,
        "seed": seed,
        "host": cut.host,
        "second": round(found.cut_at, 1),
        "lasted": round(found.mended_at - found.cut_at, 1),
        "update": found.update,
        "during": found.during,
        "codes": found.codes,
        "seconds": round(found.seconds, 1),
        "uncut_seconds": round(uncut.seconds, 1),
    }
    problem, known = "", ""
    ended = [name for name, code in found.codes.items() if code != 0]
    late = cut.strategy in WITH_SERVER and cut.host == 1 and ended == ["worker 1"] and found.codes["worker 1"] == 1
    numbers: dict[str, Any] = {}
    if None in found.codes.values():
        problem = "it hung"
    elif not found.good and not late:
        problem = "it ended"
    else:
        known = "" if found.good else "worker 1 came back after the end of the run"  # and nobody was left to tell it
        known = known or ("the run had ended before" if found.cut_at > found.seconds else "")
        problem, numbers = compare(cut.strategy, found, uncut)
        if problem == OTHER_NUMBERS and '"worker_lost"' in metrics_of(found.workdir):
            problem, known = "", "a worker was silent for longer than strategy.lease_seconds: rounds without it"
    if known:
        about["known"] = known
    if problem:
        about["said"] = {name: (said.splitlines() or [""])[-1][-300:] for name, said in found.said.items()}
    return about | numbers | {"problem": problem}


def cut_runs(
    lab: Lab,
    cuts: Sequence[Cut],
    seed: int,
    workdir: pathlib.Path,
    *,
    lasts: tuple[float, int] = (0.0, 0),
    **changes: Any,
) -> Iterator[dict[str, Any]]:
    """Trains once for each cut, as many runs at a time as the laboratory has room for, and once without for each
    strategy. Yields a row each (`row`), in order. Blocks for minutes. What the processes of a run that was not good
    have said is in its folder.

    Args:
      lasts: seconds that a run is expected to take to start, and its examples; by default, those of the uncut run,
        which is waited for.
      changes: of the configuration, for all runs.

    Raises:
      RuntimeError: a run that was not cut did not end well.
    """
    free: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in parts(lab):
        free.put(part)

    def trained(folder: str, strategy: str, cut: Cut | None = None, start: float = 0.0, total: int = 0) -> Outcome:
        part, place = free.get(), workdir / folder
        try:
            if cut is None:
                return run(part, place, strategy, **changes)
            down, wait = (cut.host, cut.seconds), lambda: await_moment(place, cut, start, total)
            return run(part, place, strategy, cut=down, wait=wait, **changes)
        finally:
            free.put(part)

    with futures.ThreadPoolExecutor(free.qsize()) as pool:
        strategies = list(dict.fromkeys(cut.strategy for cut in cuts))
        uncut = {one: pool.submit(trained, f"uncut-{one}", one) for one in strategies}
        running = []
        for cut in cuts:
            start, total = lasts
            if not total:
                whole = _good(cut.strategy, uncut[cut.strategy].result())
                start, total = seconds_of_start(whole.workdir), newest(whole.workdir, "examples_seen")
            name = f"{cut.number}-{cut.strategy}"
            running.append(pool.submit(trained, name, cut.strategy, cut, start, total))
        for cut, future in zip(cuts, running, strict=True):
            found = future.result()
            line = row(cut, seed, found, _good(cut.strategy, uncut[cut.strategy].result()))
            if line["problem"]:
                for name, said in found.said.items():
                    (found.workdir / f"{name.replace(' ', '')}.said").write_text(said)
            yield line


def _good(strategy: str, outcome: Outcome) -> Outcome:
    if not outcome.good:
        raise RuntimeError(f"{strategy} did not end well without a cut: {outcome.codes}, {outcome.said}")
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--only", default="", help="numbers of the cuts of that seed to make: '3,17'; default: all")
    parser.add_argument("--side_by_side", type=int, default=3, help="runs at a time")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/cuts"), help="must not exist")
    options = parser.parse_args(argv)
    strategies = options.strategies.split(",")
    unknown = [one for one in strategies if one not in STRATEGIES]
    if unknown:
        parser.error(f"--strategies: {', '.join(unknown)} is none of {', '.join(STRATEGIES)}")
    if options.workdir.exists():
        parser.error(f"--workdir={options.workdir} is there already")
    wanted = [int(number) for number in options.only.split(",") if number]
    cuts = [c for c in draw(options.cuts, options.seed, strategies) if not wanted or c.number in wanted]
    os.environ.update(QUICKLY)  # programs of tests: what is tried here is not the compiler
    bad = 0
    try:
        with Lab(HOSTS * options.side_by_side) as lab:
            for line in cut_runs(lab, cuts, options.seed, options.workdir.absolute()):
                print(json.dumps(line), flush=True)
                bad += bool(line["problem"])
    except NoLab as e:
        print(f"lab_cuts: {e}", file=sys.stderr)
        return 2
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
