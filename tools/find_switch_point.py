"""Searches the smallest synchronous share of a run that still reaches the accuracy of the all-synchronous one.

    python tools/find_switch_point.py experiments/strategy_switch.py --out=DIR --tolerance=0.005 --num_workers=2 \\
        -- --config.data.train_examples=6000 --config.num_epochs=8 '--config.optim.drop_epochs=(4,6)'

    all-reduce, once   |-----|-----|-----|-----|-----|-----|-----|-----|   a checkpoint at every eighth
    share 1/2                                   '.... parameter server
    share 1/4 or 3/4              '.... parameter server                   from the same checkpoints

Bisects over 2^steps shares; each run begins with a copy of the synchronous run's checkpoint, so the common part is
trained once. Decides by the holdout's accuracy where data.holdout_examples is set; else by the validation accuracy, and
says so. Runs that have ended are not repeated.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from run_reader import path_of, read_run

ROOT = pathlib.Path(__file__).resolve().parents[1]


def bisect_share(shares: Sequence[int], good: Callable[[int], bool]) -> int:
    """The smallest of ascending `shares` for which `good` holds, if it holds from some share on and for the last."""
    low, high = 0, len(shares) - 1
    while low < high:
        middle = (low + high) // 2
        if good(shares[middle]):
            high = middle
        else:
            low = middle + 1
    return shares[high]


class Search:
    """The runs of one search."""

    def __init__(self, options: argparse.Namespace, more: Sequence[str]) -> None:
        self.options, self.more = options, list(more)
        self.rows: list[list[str]] = []

    def run(self, name: str, *flags: str, servers: int) -> pathlib.Path:
        """Trains in DIR/NAME unless that run has ended; returns its directory."""
        workdir = self.options.out / name
        if not (workdir / "summary.json").exists():
            print(f"{name}: running in {workdir}", flush=True)
            workdir.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, str(ROOT / "tools" / "launch.py"), f"--num_workers={self.options.num_workers}"]
            command += [f"--num_servers={servers}"] if servers else []
            command += ["--", f"--config={self.options.experiment}", f"--workdir={workdir}", *self.more, *flags]
            with open(workdir / "launch.log", "a") as log:
                code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
            if code:
                raise SystemExit(f"{name} ended with {code}, see {workdir / 'launch.log'}.")
        return workdir

    def accuracy(self, workdir: pathlib.Path) -> tuple[float, str]:
        """What decides, and what it is of."""
        last = read_run(workdir).evaluations[-1]
        if "accuracy" not in last:
            raise SystemExit(f"{workdir.name} has no accuracy to decide by: its objective has other metrics.")
        found = (
            (last["holdout_accuracy"], "holdout") if "holdout_accuracy" in last else (last["accuracy"], "validation")
        )
        summary = json.loads((workdir / "summary.json").read_text())
        self.rows.append([workdir.name, f"{found[0]:.2%}", f"{summary['elapsed_seconds']:.0f}"])
        print(f"{workdir.name}: {found[1]} accuracy {found[0]:.2%}, {summary['elapsed_seconds']:.0f} s", flush=True)
        return found

    def synchronous(self) -> pathlib.Path:
        epochs = f"--config.checkpoint.every_epochs={self.epochs() / 2**self.options.steps:g}"
        flags = ["--config.strategy.name=allreduce", "--config.strategy.schedule=", epochs]
        return self.run("synchronous", *flags, "--config.checkpoint.keep=1000", servers=0)

    def epochs(self) -> float:
        """`num_epochs` of the experiment with the flags given."""
        code = (
            "import sys; from absl import flags; from ml_collections import config_flags\n"
            "c = config_flags.DEFINE_config_file('config', None, '', lock_config=True)\n"
            "flags.FLAGS(sys.argv); print(c.value.num_epochs)"
        )
        command = [sys.executable, "-c", code, f"--config={self.options.experiment}", *self.more]
        return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    def switched(self, reference: pathlib.Path, updates: int, share: float) -> pathlib.Path:
        """The run that switches after `updates` of the synchronous one, from that one's checkpoint."""
        name = f"switch_{100 * share:04.1f}"
        workdir = self.options.out / name
        target = workdir / "checkpoints" / str(updates)
        if not workdir.exists():
            shutil.copytree(reference / "checkpoints" / str(updates), target)
            shutil.copy(reference / "config.json", workdir / "config.json")
        schedule = f"--config.strategy.schedule=allreduce:{share!r},{self.options.second}"
        return self.run(name, "--config.strategy.name=switch", schedule, servers=self.options.num_servers)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=pathlib.Path)
    parser.add_argument("--out", type=path_of, required=True)
    parser.add_argument("--tolerance", type=float, default=0.005, help="accuracy that may be lost, as a part of 1")
    parser.add_argument("--steps", type=int, default=3, help="bisections; shares are multiples of 1 / 2^steps")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--num_servers", type=int, default=1)
    parser.add_argument("--second", default="parameter_server", help="the asynchronous phase, with its options")
    cut = list(argv).index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    search = Search(options, argv[cut + 1 :])
    reference = search.synchronous()
    wanted, of = search.accuracy(reference)
    if of == "validation":
        print("Deciding by the test set: set data.holdout_examples to keep it for the report alone.", flush=True)
    total = read_run(reference).evaluations[-1]["updates"]
    saved = sorted(int(p.name) for p in (reference / "checkpoints").iterdir() if p.name.isdigit())
    found: dict[int, Any] = {}

    def good(updates: int) -> bool:
        if updates == total:
            return True
        found[updates] = search.accuracy(search.switched(reference, updates, updates / total))[0]
        return found[updates] >= wanted - options.tolerance

    best = bisect_share(saved, good)
    print("\n| run | accuracy | elapsed s |\n|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in search.rows))
    print(f"\nSmallest synchronous share within {options.tolerance:g} of {wanted:.2%}: {best / total:.1%} of the run.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
