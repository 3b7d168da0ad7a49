"""Runs a whole comparison, one run after the other, and then the report.

    python tools/reproduce.py experiments/strategy_switch.py --out=DIR --scale=0.1 --num_workers=2 --seeds=0,1,2
    python tools/reproduce.py experiments/strategy_switch.py --out=DIR --only=allreduce,switch_50 -- --config.seed=7

The experiment file has `comparison(scale, num_workers)`: {name: values}. Runs are in DIR/NAME/seedN; those that have
ended are passed over and those that were stopped go on, so the same command continues an interrupted comparison.
"""

from __future__ import annotations

import argparse
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


def load_comparison(path: pathlib.Path, scale: float, num_workers: int) -> Mapping[str, Mapping[str, Any]]:
    """What the experiment file compares: {name: {'num_servers': N, 'environ': {}, and 'KEY': value of the config}}.

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
               num_workers: int, seed: int) -> list[str]:  # fmt: skip
    values = {k: v for k, v in run.items() if k not in ("num_servers", "environ")}
    command = [sys.executable, str(ROOT / "tools" / "launch.py"), f"--num_workers={num_workers}", "--max_restarts=1"]
    command += [f"--num_servers={run['num_servers']}"] if run.get("num_servers") else []
    command += ["--", f"--config={experiment}", f"--workdir={workdir}", f"--config.seed={seed}"]
    return command + [f"--config.{key}={value}" for key, value in values.items()] + list(more)


def run_to_the_end(command: Sequence[str], log: TextIO, environ: Mapping[str, str]) -> int:
    """The exit code. SIGTERM and Ctrl-C go to the run, which saves; they do not end this process before it."""
    child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ, start_new_session=True)
    before = {
        n: signal.signal(n, lambda *_: child.send_signal(signal.SIGTERM)) for n in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=pathlib.Path)
    parser.add_argument("--out", type=path_of, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the experiment's size; 1 is the original")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--seeds", default="0", help="comma-separated; all strategies of one seed come first")
    parser.add_argument("--only", default="", help="comma-separated names of runs")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    cut = list(argv).index("--") if "--" in argv else len(argv)
    more = argv[cut + 1 :]  # flags for every run
    options = parser.parse_args(argv[:cut])
    runs = load_comparison(options.experiment, options.scale, options.num_workers)
    names = options.only.split(",") if options.only else list(runs)
    unknown = sorted(set(names) - set(runs))
    if unknown:
        print(f"{options.experiment} has no run {', '.join(unknown)}; it has {', '.join(runs)}.", file=sys.stderr)
        return 2
    wanted = [(name, int(seed)) for seed in options.seeds.split(",") for name in names]
    failed = []
    for number, (name, seed) in enumerate(wanted, 1):
        workdir = options.out / name / f"seed{seed}"
        command = command_of(runs[name], options.experiment, workdir, more, num_workers=options.num_workers, seed=seed)
        if options.list:
            print(" ".join(command))
            continue
        where = f"[{number}/{len(wanted)}] {name}, seed {seed}"
        if (workdir / "summary.json").exists():
            print(f"{where}: has ended already", flush=True)
            continue
        print(f"{where}: running in {workdir}", flush=True)
        workdir.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        with open(workdir / "launch.log", "a") as log:
            environ = os.environ | dict(runs[name].get("environ", {}))
            code = run_to_the_end(command, log, environ)
        if code == STOPPED_AFTER_SAVING:
            print(f"{where}: stopped after saving; the same command goes on", flush=True)
            return code
        if code:
            failed.append(f"{name}/seed{seed}")
            print(f"{where}: ended with {code}, see {workdir / 'launch.log'}", flush=True)
            continue
        accuracy = json.loads((workdir / "summary.json").read_text())["validation_accuracy"]
        print(f"{where}: {accuracy:.2%} after {time.monotonic() - begin:.0f} s", flush=True)
    if options.list:
        return 0
    if failed:
        print(f"{len(failed)} of {len(wanted)} failed: {', '.join(failed)}.", file=sys.stderr)
    folders = [str(options.out / name / f"seed{seed}") for name, seed in wanted]
    report = [sys.executable, str(ROOT / "tools" / "compare_runs.py"), *folders, f"--out={options.out}"]
    return subprocess.run(report).returncode or bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
