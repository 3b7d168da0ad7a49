"""Runs a whole comparison, one run after the other, and then the report.

    python tools/reproduce.py experiments/strategy_switch.py --out=DIR --scale=0.1 --num_workers=2 --seeds=0,1,2
    python tools/reproduce.py experiments/strategy_switch.py --out=DIR --only=allreduce,switch_50 -- --config.seed=7
    python tools/reproduce.py experiments/system_comparison_a.py --out=DIR --scale=0.01 --against=torch --minutes=30
    python tools/reproduce.py experiments/system_comparison_a.py --out=DIR --resume

The experiment file has `comparison(scale, num_workers)`: {name: values}. Runs are in DIR/NAME/seedN; those that have
ended are passed over and those that were stopped go on, so the same command continues an interrupted comparison. With
--resume its values are those of its last start without it, and DIR must hold one; --seeds, --only and --against beside
it are for this once. The names of a sweep are POINT/SYSTEM, as
batch_96/allreduce_2x1; its report is that of tools/compare_sweep.py.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from run_reader import path_of

STOPPED_AFTER_SAVING = 75
ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS = {"torch": "tools/torch_run.py"}  # by the word of --against: what trains in place of jaxdist.main
STARTED = "comparison.json"  # in --out: what the comparison was started with
_OF_THE_LAUNCHER = ("num_servers", "num_workers", "cpus_per_worker", "environ", "against")

Comparison = Mapping[str, Mapping[str, Any]]


def load_comparison(path: pathlib.Path, scale: float, num_workers: int) -> Comparison:
    """What the experiment file compares: {name: {'KEY': value of the config, ...}}.

    A run may also have `num_servers`, `environ`, `num_workers` and `cpus_per_worker` of its own, and `against`: the
    word of `PEERS` that trains it.

    Raises:
      SystemExit: there is no such file, or it compares nothing.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"{path} is not an experiment file.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT))  # comparisons borrow from other experiment files
    spec.loader.exec_module(module)
    if not hasattr(module, "comparison"):
        raise SystemExit(f"{path} compares nothing: it has no function comparison(scale, num_workers).")
    return module.comparison(scale, num_workers)


def command_of(run: Mapping[str, Any], experiment: pathlib.Path, workdir: pathlib.Path, more: Sequence[str], *,
               num_workers: int, seed: int, out: pathlib.Path | None = None) -> list[str]:  # fmt: skip
    values = {k: v for k, v in run.items() if k not in _OF_THE_LAUNCHER}
    workers = run.get("num_workers", num_workers)
    command = [sys.executable, str(ROOT / "tools" / "launch.py"), f"--num_workers={workers}", "--max_restarts=1"]
    command += [f"--{name}={run[name]}" for name in ("num_servers", "cpus_per_worker") if run.get(name)]
    command += [f"--program={ROOT / PEERS[run['against']]}"] if run.get("against") else []
    command += ["--", f"--config={experiment}", f"--workdir={workdir}", f"--config.seed={seed}"]
    if run.get("against") and out is not None:  # one for all: it is of the model, the data and the seed
        command += [f"--reference={out / 'reference' / f'seed{seed}'}"]
    return command + [f"--config.{key}={value}" for key, value in values.items()] + list(more)


def run_to_the_end(command: Sequence[str], log: TextIO, environ: Mapping[str, str]) -> tuple[int, bool]:
    """(exit code, whether a signal came). SIGTERM and Ctrl-C go to the run, which saves; they do not end this process
    before it."""
    child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ, start_new_session=True)
    asked: list[int] = []

    def forward(number: int, _frame: object) -> None:
        asked.append(number)
        child.send_signal(signal.SIGTERM)

    before = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        return child.wait(), bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(options, flags for every run); with --resume, what is not given is as at the last start without it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=pathlib.Path)
    parser.add_argument("--out", type=path_of, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the experiment's size; 1 is the original")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--seeds", default="0", help="comma-separated; all strategies of one seed come first")
    parser.add_argument("--only", default="", help="comma-separated names of runs, or patterns as 'batch_96/*'")
    parser.add_argument("--against", default="", choices=["", *PEERS], help="also the runs of this peer")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no further run after so many; 0: no limit")
    parser.add_argument("--resume", action="store_true", help="go on with the comparison that --out holds")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    cut = list(argv).index("--") if "--" in argv else len(argv)
    more = list(argv[cut + 1 :])
    options = parser.parse_args(argv[:cut])
    if options.resume:
        path = options.out / STARTED
        if not path.exists():
            parser.error(f"--resume, but {options.out} holds no comparison ({STARTED} is not there): leave it out")
        first = json.loads(path.read_text())
        more = more or first.pop("more")
        parser.set_defaults(**{k: first[k] for k in ("scale", "num_workers", "seeds", "only", "against")})
        options = parser.parse_args(argv[:cut])
    return options, more


def started_with(options: argparse.Namespace, more: Sequence[str]) -> dict[str, Any]:
    """What runs of one comparison have in common, and (the last three) what may be added to."""
    found = {"experiment": options.experiment.name, "scale": options.scale, "num_workers": options.num_workers}
    return found | {"more": list(more), "seeds": options.seeds, "only": options.only, "against": options.against}


def difference(options: argparse.Namespace, more: Sequence[str]) -> str:
    """How these options differ from those that the runs in --out were started with; '' where they do not."""
    path = options.out / STARTED
    if not path.exists():
        return ""
    first, now = json.loads(path.read_text()), started_with(options, more)
    keys = ("experiment", "scale", "num_workers", "more")
    return "; ".join(f"{key} was {first[key]!r} and is {now[key]!r}" for key in keys if first[key] != now[key])


def chosen(runs: Comparison, only: str, against: str) -> list[str]:
    """The names to run, in the experiment's order: those of `only`, and of peers those of `against` alone.

    Raises:
      ValueError: there are none for a word of `only`, or for all of them.
    """
    wanted = only.split(",") if only else ["*"]
    if unknown := sorted(word for word in wanted if not fnmatch.filter(runs, word)):
        raise ValueError(f"has no run {', '.join(unknown)}; it has {', '.join(runs)}")
    names = [name for name in runs if any(fnmatch.fnmatchcase(name, word) for word in wanted)]
    found = [name for name in names if runs[name].get("against") in (None, against)]
    if not found:
        raise ValueError(f"has {only} only with --against={runs[names[0]]['against']}")
    return found


def main(argv: Sequence[str]) -> int:
    options, more = parse(argv)
    begin = time.monotonic()
    runs = load_comparison(options.experiment, options.scale, options.num_workers)
    try:
        names = chosen(runs, options.only, options.against)
    except ValueError as e:
        print(f"{options.experiment} {e}.", file=sys.stderr)
        return 2
    wanted = [(name, int(seed)) for seed in options.seeds.split(",") for name in names]
    folders = {one: options.out / one[0] / f"seed{one[1]}" for one in wanted}
    commands = {
        one: command_of(runs[one[0]], options.experiment, folders[one], more, num_workers=options.num_workers,
                        seed=one[1], out=options.out)
        for one in wanted
    }  # fmt: skip
    if options.list:
        print("\n".join(" ".join(command) for command in commands.values()))
        return 0
    if options.against and importlib.util.find_spec(options.against) is None:
        print(f"--against={options.against} needs the package {options.against}: install it.", file=sys.stderr)
        return 2
    if differs := difference(options, more):
        print(f"{options.out} holds a comparison with other values: {differs}. Name another --out.", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.resume:  # a part that is gone on with is not the whole that was asked for
        (options.out / STARTED).write_text(json.dumps(started_with(options, more), indent=2) + "\n")
    failed, missing = [], []
    for number, one in enumerate(wanted, 1):
        where = f"[{number}/{len(wanted)}] {one[0]}, seed {one[1]}"
        if (folders[one] / "summary.json").exists():
            print(f"{where}: has ended already", flush=True)
            continue
        if options.minutes and time.monotonic() - begin > 60 * options.minutes:
            missing.append(f"{one[0]}/seed{one[1]}")
            continue
        code, asked = _run(one[0], commands[one], folders[one], runs[one[0]].get("environ", {}), where)
        if asked or code == STOPPED_AFTER_SAVING:
            print(f"{where}: stopped; the same command goes on", flush=True)
            return code or STOPPED_AFTER_SAVING
        if code:
            failed.append(f"{one[0]}/seed{one[1]}")
    if failed:
        print(f"{len(failed)} of {len(wanted)} failed: {', '.join(failed)}.", file=sys.stderr)
    if missing:
        words = f"{options.minutes:g} minutes are over: {len(missing)} of {len(wanted)} runs are missing"
        print(f"{words}, the same command goes on: {', '.join(missing)}.", file=sys.stderr)
    begun = [folder for folder in folders.values() if folder.exists()]
    code = _report(options.out, begun, sweep=any("/" in name for name in names)) if begun else 0
    return code or (1 if failed else STOPPED_AFTER_SAVING if missing else 0)


def _run(name: str, command: Sequence[str], folder: pathlib.Path, environ: Mapping[str, str], where: str
         ) -> tuple[int, bool]:  # fmt: skip
    """One run to its end: (exit code, whether a signal came)."""
    print(f"{where}: running in {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with open(folder / "launch.log", "a") as log:
        code, asked = run_to_the_end(command, log, os.environ | dict(environ))
    if code not in (0, STOPPED_AFTER_SAVING) and not asked:
        print(f"{where}: ended with {code}, see {folder / 'launch.log'}", flush=True)
    if code == 0:
        accuracy = json.loads((folder / "summary.json").read_text())["validation_accuracy"]
        print(f"{where}: {accuracy:.2%} after {time.monotonic() - begin:.0f} s", flush=True)
    return code, asked


def _report(out: pathlib.Path, folders: Sequence[pathlib.Path], sweep: bool) -> int:
    there = [str(out)] if sweep else [str(folder) for folder in folders]
    tool = "compare_sweep.py" if sweep else "compare_runs.py"
    return subprocess.run([sys.executable, str(ROOT / "tools" / tool), *there, f"--out={out}"]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
