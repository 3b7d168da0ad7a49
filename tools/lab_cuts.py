"""Cuts links at random moments of tiny runs in a laboratory: who hangs, who ends, whose numbers change?

    python tools/lab_cuts.py --cuts=20 --seed=1 [--strategies=allreduce,servers] [--workdir=runs/cuts]

Each strategy first trains once without a cut. Then come runs that are each cut once: one host's link is down for 1 to
20 s, from a moment anywhere between the first line of process 0's log, when it has not called anybody yet, and the end
of the run. Several runs share a laboratory, each on
hosts of its own: two with a worker, and one with the server. Time-outs are the defaults. One line of JSON a cut; the
exit code is 1 where one of them was not good. It trains the runs of the tests (`tests/helpers/tiny_config.py`).
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
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.compiled import QUICKLY  # noqa: E402
from helpers.hosts import STRATEGIES, WITH_SERVER, train  # noqa: E402
from lab import Lab, NoLab  # noqa: E402

EXACT = ("allreduce", "fsdp", "pipeline", "rounds")  # their numbers do not depend on who is when how fast
HOSTS = 3  # of a run: two workers, one server
SHORTEST, LONGEST = 1.0, 20.0  # seconds of a cut
PATIENCE = 180.0  # seconds after which a run that has not ended hangs: three time-outs
# What every run has: 40 updates (80 of asynchronous workers), checkpoints in between, and the time-outs of a user.
SETTINGS: dict[str, Any] = {
    "cluster__timeout_seconds": 60.0,
    "cluster__connect_timeout_seconds": 300.0,
    "checkpoint__every_updates": 7,
}
OTHER_NUMBERS = "other numbers than those of the uncut run"
LONGER = {"servers": {"num_epochs": 4.0}}
SLOWLY = "delay@seconds=0.5"  # after each update, so that a run lasts long enough to be cut anywhere


@dataclasses.dataclass(frozen=True)
class Cut:
    """One link that is down once.

    Attributes:
      host: 0 and 1 have a worker each, 2 the server.
      moment: when, as a share of the time that the uncut run takes from the first line of process 0's log.
      seconds: how long.
    """

    number: int
    strategy: str
    host: int
    moment: float
    seconds: float


@dataclasses.dataclass
class Outcome:
    """How a run ended.

    Attributes:
      codes: exit codes by process; None: it had to be killed.
      seconds: from process 0's first line to the last one's end.
      said: the output of each.
      cut_at, mended_at: seconds since that line.
      during: what process 0 had logged last when the link was cut; `update`: and the newest update in `metrics.jsonl`.
    """

    workdir: pathlib.Path
    codes: dict[str, int | None]
    seconds: float
    said: dict[str, str]
    cut_at: float = math.nan
    mended_at: float = math.nan
    during: str = ""
    update: int = 0

    @property
    def good(self) -> bool:
        return not any(code != 0 for code in self.codes.values())


class Part:
    """Some of a laboratory's hosts, as a laboratory of their own. Thread-safe, as far as it goes.

    Args:
      first: of its hosts.
      lock: of all parts of the laboratory.
    """

    def __init__(self, lab: Lab, first: int, lock: threading.Lock) -> None:
        self._lab, self._first, self._lock = lab, first, lock
        self.names = lab.names[first : first + HOSTS]
        self.addresses = lab.addresses[first : first + HOSTS]

    def popen(self, host: int, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        return self._lab.popen(self._first + host, command, **options)

    def cut(self, host: int) -> None:
        with self._lock:
            self._lab.cut(self._first + host)

    def mend(self, host: int) -> None:
        with self._lock:
            self._lab.mend(self._first + host)


def parts(lab: Lab) -> list[Part]:
    """The laboratory divided among as many runs as have room in it."""
    lock = threading.Lock()
    return [Part(lab, first, lock) for first in range(0, len(lab.names) - HOSTS + 1, HOSTS)]


def draw(count: int, seed: int, strategies: Sequence[str]) -> list[Cut]:
    """Random cuts, the strategies in turn."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        strategy = strategies[number % len(strategies)]
        host = chance.randrange(3 if strategy in WITH_SERVER else 2)
        found.append(Cut(number + 1, strategy, host, chance.random(), chance.uniform(SHORTEST, LONGEST)))
    return found


def run(
    part: Part,
    workdir: pathlib.Path,
    strategy: str,
    *,
    cut: Cut | None = None,
    wait: Callable[[], object] = lambda: None,
    fault: str = SLOWLY,
    **changes: Any,
) -> Outcome:
    """Trains once, with a cut when `wait` returns, or without one. Blocks until all processes have ended, or `PATIENCE`
    seconds after the last thing that befell them, when those that are left are killed.

    Args:
      wait: called when process 0 has begun its log; blocks until the moment of the cut.
      changes: of the configuration.
    """
    settings = SETTINGS | LONGER.get(strategy, {}) | changes
    processes = train(part, workdir, strategy, 9000, workers=2, server=2, fault=fault, **settings)
    while not _log(workdir).exists() and all(process.poll() is None for process in processes):
        time.sleep(0.02)
    begin = time.monotonic()
    names = [*(["server"] if strategy in WITH_SERVER else []), "worker 0", "worker 1"]
    with futures.ThreadPoolExecutor(len(processes)) as pool:
        ends = [pool.submit(_end, process, begin) for process in processes]
        outcome = Outcome(workdir, {}, 0.0, {})
        if cut is not None:
            wait()
            outcome.during, outcome.update = _doing(workdir)
            outcome.cut_at = time.monotonic() - begin
            part.cut(cut.host)
            try:
                time.sleep(cut.seconds)
            finally:
                part.mend(cut.host)
            outcome.mended_at = time.monotonic() - begin
        futures.wait(ends, PATIENCE)
        for process in processes:
            if process.poll() is None:
                outcome.codes[names[processes.index(process)]] = None
                process.kill()
        for name, process, end in zip(names, processes, ends, strict=True):
            said, seconds = end.result()
            outcome.codes.setdefault(name, process.returncode)
            outcome.said[name] = said
            outcome.seconds = max(outcome.seconds, seconds)
    return outcome


def _end(process: subprocess.Popen[str], begin: float) -> tuple[str, float]:
    said, _ = process.communicate()
    return said, time.monotonic() - begin


def _log(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "logs" / "worker-0.log"


def _doing(workdir: pathlib.Path) -> tuple[str, int]:
    """(what process 0 has logged last, the newest update that it has written)."""
    lines = _log(workdir).read_text().splitlines() if _log(workdir).exists() else []
    said = lines[-1].split(" ", 3)[-1][:80] if lines else "(before its first line)"
    return said, max(map(int, re.findall(r'"updates": (\d+)', _metrics(workdir))), default=0)


def _metrics(workdir: pathlib.Path) -> str:
    path = workdir / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def compare(strategy: str, found: Outcome, uncut: Outcome) -> tuple[str, dict[str, Any]]:
    """(what is wrong with the numbers of a run that ended well, or ''; what was looked at)."""
    from helpers.outcomes import final_state

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
    rows = map(json.loads, reversed(_metrics(workdir).splitlines()))
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
        if problem == OTHER_NUMBERS and '"worker_lost"' in _metrics(found.workdir):
            problem, known = "", "a worker was silent for longer than strategy.lease_seconds: rounds without it"
    if known:
        about["known"] = known
    if problem:
        about["said"] = {name: (said.splitlines() or [""])[-1][-300:] for name, said in found.said.items()}
    return about | numbers | {"problem": problem}


def cut_runs(
    lab: Lab, cuts: Sequence[Cut], seed: int, workdir: pathlib.Path, *, lasts: float = 0.0, **changes: Any
) -> Iterator[dict[str, Any]]:
    """Trains once for each cut, as many runs at a time as the laboratory has room for, and once without for each
    strategy. Yields a row each (`row`), in order. Blocks for minutes. What the processes of a run that was not good
    have said is in its folder.

    Args:
      lasts: seconds that a run is expected to take; 0: what the uncut run of the strategy took, which is waited for.
      changes: of the configuration, for all runs.

    Raises:
      RuntimeError: a run that was not cut did not end well.
    """
    free: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in parts(lab):
        free.put(part)

    def trained(folder: str, strategy: str, cut: Cut | None = None, at: float = 0.0) -> Outcome:
        part = free.get()
        try:
            return run(part, workdir / folder, strategy, cut=cut, wait=lambda: time.sleep(at), **changes)
        finally:
            free.put(part)

    with futures.ThreadPoolExecutor(free.qsize()) as pool:
        strategies = list(dict.fromkeys(cut.strategy for cut in cuts))
        uncut = {one: pool.submit(trained, f"uncut-{one}", one) for one in strategies}
        at = dict.fromkeys(strategies, lasts) if lasts else {s: _good(s, u.result()).seconds for s, u in uncut.items()}
        running = [
            pool.submit(trained, f"{cut.number}-{cut.strategy}", cut.strategy, cut, cut.moment * at[cut.strategy])
            for cut in cuts
        ]
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
