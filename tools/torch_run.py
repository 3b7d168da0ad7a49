"""One process of a run under PyTorch DDP: the model, examples, order and weights of a run of ours, its run directory.

    python tools/launch.py --program=tools/torch_run.py --num_workers=2 --cpus_per_worker=1 -- \
        --config=experiments/system_comparison_a.py --workdir=DIR [--reference=DIR] [--config.KEY=VALUE ...]

Batches are those of `allreduce`: this package's loader makes them (normalised, augmented) from the same decoded file,
in a DataLoader's process that works ahead as `data.prefetch` says and shares this process's cores. The memory layout
(channels first or last) is the quicker one here; the search is in no time of the run. Before training, the losses at
equal weights and after two updates are compared with ours (tools/torch_reference.py); unequal ones are refused with
exit code 2. That takes no time of the run either. A run that was stopped begins again.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch_reference
from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxdist import config as config_lib
from jaxdist.errors import UsageError, ending
from jaxdist.runtime import last_words, monitor
from jaxdist.runtime.allocator import keep_freed_memory

STRATEGY = "torch_ddp"
_TOLERANCE = 1e-9  # of losses and norms in float64, relative; 2e-13 was measured
ROOT = pathlib.Path(__file__).resolve().parents[1]
_MODELS = {"cnn": (), "resnet": ("depth", "version"), "densenet": ("depth", "dropout")}  # and what each takes


def check(config: ConfigDict, processes: int) -> None:
    """Refuses what this program cannot do as ours does.

    Raises:
      UsageError: which value, and what there is.
    """
    if importlib.util.find_spec("torch") is None:
        raise UsageError("a run under PyTorch needs the package torch: pip install torch")
    if config.model.name not in _MODELS:
        raise UsageError(f"model.name={config.model.name!r} is not there in PyTorch; one of {', '.join(_MODELS)}.")
    known = config_lib.default_config()
    fixed = {"optim.name": "adadelta", "optim.schedule": known.optim.schedule, "optim.drop_epochs": ()}
    fixed |= {"model.dtype": known.model.dtype, "model.param_dtype": "float32", "early_stopping_patience": 0}
    fixed |= {key: value for key, value in config_lib.flatten(known).items() if key.startswith("objective.")}
    fixed |= {"optim.options": {}, "optim.clip_global_norm": 0.0, "optim.ema_decay": 0.0, "optim.warmup_epochs": 0.0}
    fixed |= {"data.partition": "", "data.features": (), "data.target": ""}
    values = config_lib.flatten(config)
    for key, value in fixed.items():
        if values[key] != value:
            raise UsageError(f"{key}={values[key]!r}, but the PyTorch side has {value!r} alone.")
    if config.global_batch_size % processes:
        raise UsageError(f"global_batch_size={config.global_batch_size} is not divisible by the {processes} processes.")


def reference(folder: pathlib.Path, config: ConfigDict, arguments: Sequence[str]) -> dict[str, Any]:
    """What `torch_reference` found, made where it is not there; process 0 alone.

    Raises:
      UsageError: the folder has that of another configuration, or it cannot be made.
    """
    path = folder / "reference.json"
    if not path.exists():
        command = [sys.executable, str(ROOT / "tools" / "torch_reference.py"), f"--out={folder}", *arguments]
        made = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if made.returncode:
            words = (made.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise UsageError(f"the reference for PyTorch could not be made: {words}")
    found = json.loads(path.read_text())
    wanted = torch_reference.signature(config)
    other = sorted(k for k in wanted if found["config"].get(k) != wanted[k])
    if other:
        differ = ", ".join(f"{k} is {found['config'].get(k)!r} there and {wanted[k]!r} here" for k in other)
        raise UsageError(f"{path} is of another configuration: {differ}. Name another --reference.")
    return found


def run(config: ConfigDict, workdir: pathlib.Path, folder: pathlib.Path, begin: float, *, number: int, processes: int,
        address: str, profile_steps: int, arguments: Sequence[str]) -> None:  # fmt: skip
    """One process of the run; `begin`: when it was started (`time.monotonic`).

    Raises:
      UsageError: the losses at equal weights differ from ours, or the reference is of another configuration.
    """
    keep_freed_memory()
    import torch
    import torch_side
    import torch_training as training

    timer = training.Timer()
    threads = len(os.sched_getaffinity(0))
    torch_side.prepare(threads)
    torch_side.join(address, number, processes)
    timer.seconds["startup"] = time.monotonic() - begin
    asked = time.monotonic()
    ours = _agreed(lambda: reference(folder, config, arguments), number, processes)
    not_of_the_run = time.monotonic() - asked
    with timer.phase("read"):
        examples = training.Examples(config)
        settings = {key: config.model[key] for key in _MODELS[config.model.name]}
        with np.load(folder / "weights.npz") as weights:
            net = torch_side.model_with(weights, config.model.name, settings)
            plain = torch_side.model_with(weights, config.model.name, settings, dropping=False)
    asked = time.monotonic()
    theirs = _agreed(lambda: _alike(ours, training.first_losses(plain, config, examples)), number, processes)
    layout = training.quicker_layout(net, config, examples, processes)
    not_of_the_run += time.monotonic() - asked
    with timer.phase("read"):
        trainer = training.Trainer(config, number, processes, examples, net, layout, timer)
    rows = training.Rows(workdir, number == 0, begin + not_of_the_run)
    trained = trainer.train(rows)
    elapsed = rows.elapsed()
    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024] * processes
    if processes > 1:
        torch.distributed.all_gather_object(peaks, peaks[0])
    operators = trainer.operators(profile_steps) if profile_steps else None
    if number == 0:
        if operators is not None:
            (workdir / "operators.json").write_text(json.dumps(operators, indent=1) + "\n")
        summary = {"strategy": STRATEGY, "num_workers": processes, "num_servers": 0, "num_params": ours["parameters"]}
        summary |= trained | {"elapsed_seconds": round(elapsed, 3)} | timer.summary(elapsed, trainer.made_seconds)
        summary |= {"peak_memory_bytes": peaks, "torch_version": torch.__version__, "threads": threads}
        summary |= {"layout": str(layout).removeprefix("torch."), "losses_of_ours": ours, "losses_of_torch": theirs}
        part = workdir / "summary.json.tmp"
        part.write_text(json.dumps(summary, indent=2) + "\n")
        os.replace(part, workdir / "summary.json")
    if processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _alike(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """`theirs`. Raises: UsageError: the two sides do not train the same model in the same way."""
    other = [key for key in theirs if abs(theirs[key] - ours[key]) > _TOLERANCE * abs(ours[key])]
    if other:
        words = ", ".join(f"{key} is {ours[key]!r} of ours and {theirs[key]!r} of PyTorch's" for key in other)
        raise UsageError(f"at equal weights these are different models: {words} (they may differ by {_TOLERANCE:g}).")
    return theirs


def _agreed(make: Callable[[], dict[str, Any]], number: int, processes: int) -> dict[str, Any]:
    """What process 0 makes, on all processes. Raises: UsageError: on all, what it raised on process 0."""
    import torch

    told: list[Any] = [{}, ""]
    if number == 0:
        try:
            told[0] = make()
        except UsageError as e:
            told[1] = str(e)
    if processes > 1:
        torch.distributed.broadcast_object_list(told)
    if told[1]:
        raise UsageError(told[1])
    return told[0]


def main(argv: Sequence[str], begin: float) -> int:
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "experiment file", flag_values=values)
    workdir = flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
    folder = flags.DEFINE_string("reference", None, "reference of tools/torch_reference.py", flag_values=values)
    processes = flags.DEFINE_integer("num_processes", 1, "number of workers", flag_values=values)
    number = flags.DEFINE_integer("process_id", 0, "which worker this is", flag_values=values)
    address = flags.DEFINE_string("coordinator_address", "", "HOST:PORT of worker 0", flag_values=values)
    steps = flags.DEFINE_integer("profile_steps", 3, "steps of the operator table; 0: none", flag_values=values)
    try:
        try:
            values(list(argv))
            if not workdir.value or config.value is None:
                raise UsageError("--config=FILE and --workdir=DIR are required.")
        except (flags.Error, AttributeError, KeyError, TypeError, OSError, ImportError) as e:
            raise UsageError(" ".join(str(e).split())) from e
        config_lib.validate(config.value)
        check(config.value, processes.value)
        place = pathlib.Path(workdir.value).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        system = place / "system" / f"worker-{number.value}.jsonl"
        system.unlink(missing_ok=True)
        if number.value == 0:
            resolved = config_lib.flatten(config.value) | {"strategy.name": STRATEGY}
            (place / "config.json").write_text(json.dumps(resolved, indent=2) + "\n")
        with monitor.sampling(str(place), f"worker-{number.value}", config.value.monitor.interval_seconds):
            run(
                config.value, place, pathlib.Path(folder.value or place / "reference"), begin, number=number.value,
                processes=processes.value, address=address.value, profile_steps=steps.value,
                arguments=[a for a in argv[1:] if a.startswith("--config")],
            )  # fmt: skip
    except (UsageError, KeyboardInterrupt) as e:
        return last_words.say(*ending(e))
    return last_words.say(0, f"worker {number.value} has done its part.")


if __name__ == "__main__":
    began = time.monotonic()
    faulthandler.enable()
    sys.exit(main(sys.argv, began))
