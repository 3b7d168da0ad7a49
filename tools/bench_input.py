"""The visible wait of a step: how long the training thread waits for its next batch, with a real step in between.

The step is that of experiments/cnn_mnist.py under `single`, on all cores, driven as the training loop does: the metrics
of a step are waited for after the next has been started. A stand-in of the same length would leave the cores to the
threads that prepare; the real step takes them, as it does in a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxdist import data

_SKIPPED, _TIMED = 3, 5  # steps of a case in one round: until what was ahead is used up, and those that count
_DECODED = 4096  # examples, to compare ways of decoding

# (data.cache, data.prefetch, data.workers)
CASES = [
    *itertools.product(("none", "memory", "file"), (0, 2), (0,)),
    ("none", 2, 2),
]


def case_name(cache: str, prefetch: int, workers: int) -> str:
    return f"{cache}/{prefetch}" + (f"/{workers} workers" if workers else "")


class Training:
    """Steps of the CNN, as the training loop takes them."""

    def __init__(self, examples: Any, config: Any, batch: int) -> None:
        from jaxdist import strategies
        from jaxdist.train import setup

        config.global_batch_size, config.strategy.name = batch, "single"
        task = setup.make_task(config, examples)
        self._strategy = strategies.build(config.strategy, task, global_batch_size=batch, process_id=0, num_processes=1)
        self._state, self._late = self._strategy.import_state(task.init()), {"loss_sum": 0.0}
        self.place = self._strategy.place

    def step(self, batch: Any) -> None:
        """Starts a step, and waits for the one before."""
        self._state, metrics = self._strategy.train_step(self._state, batch)
        float(self._late["loss_sum"])
        self._late = metrics


@dataclasses.dataclass(frozen=True)
class Waits:
    """Milliseconds of the steps of a case in one round that count.

    Attributes:
      median, mean: of their waits. One moment in which the machine does something else is in the mean alone; waits that
        come in turns, as of batches that are ready two at a time, in the mean above all.
      step: mean of the whole step.
    """

    median: float
    mean: float
    step: float


def visible_wait(training: Training, batches: Iterator[Any], skipped: int, timed: int) -> Waits:
    """Of `timed` steps after `skipped`."""
    waits = []
    begin = 0.0
    for k in range(skipped + timed):
        asked = time.perf_counter()
        if k == skipped:
            begin = asked
        batch = next(batches)
        waits.append(1000 * (time.perf_counter() - asked))
        training.step(batch)
    whole = 1000 * (time.perf_counter() - begin) / timed
    return Waits(statistics.median(waits[skipped:]), statistics.mean(waits[skipped:]), whole)


def measure(name: str, batches: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """A line of decoding and opening, then one for each batch size."""
    from jaxdist.runtime.allocator import keep_freed_memory

    keep_freed_memory()  # all of it; a run maps arrays above 32 MiB by themselves
    config = _config(name)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_copied(name))
        opened, seconds = {}, {}
        for label, cache in (("none", "none"), ("memory", "memory"), ("file", "file"), ("file again", "file")):
            begin = time.perf_counter()
            opened[cache] = data.load(name, data_dir=folder, cache=cache)
            seconds[label] = round(time.perf_counter() - begin, 2)
        workers = max(workers for _, _, workers in CASES)
        beside = data.load(name, data_dir=folder, cache="none", workers=workers)
        stack.callback(beside.close)
        yield {
            "bench": "input", "data": name, "examples": len(beside.train), "open_s": seconds,
            "decode_us_an_example": decoding(opened["none"].train, beside.train, workers),
        }  # fmt: skip
        from jaxdist.train import setup

        config.data.data_dir, config.data.cache = folder, "file"  # which is there by now
        examples = setup.load_examples(config)
        for batch in batches:
            training = Training(examples, config, batch)
            yield _line(name, batch, rounds, training, examples, opened | {"beside": beside})


def _line(
    name: str, batch: int, rounds: int, training: Training, examples: Any, opened: dict[str, Any]
) -> dict[str, Any]:
    found: dict[str, list[Waits]] = {}
    steps = itertools.count()
    grain = _grain(examples, batch)
    for _ in range(rounds):  # the cases take turns
        for cache, depth, workers in CASES:
            split = opened["beside" if workers else cache].train

            def make(number: int, split: data.Split = split) -> Any:
                positions = range(number * batch, (number + 1) * batch)
                return training.place(examples.loader.train_batch(split, examples.stream, positions))

            with contextlib.closing(data.prefetch(make, steps, depth, workers)) as prepared:
                one = visible_wait(training, prepared, _SKIPPED, _TIMED)
            found.setdefault(case_name(cache, depth, workers), []).append(one)
        if grain is not None:
            found.setdefault("grain", []).append(visible_wait(training, map(training.place, grain()), _SKIPPED, _TIMED))

    def of_rounds(what: str, digits: int) -> dict[str, float]:
        return {case: round(statistics.median(getattr(w, what) for w in ws), digits) for case, ws in found.items()}

    def ratio(off: str, on: str) -> float:
        pairs = zip(found[off], found[on], strict=True)
        return round(statistics.median(a.median / b.median for a, b in pairs), 1)

    ratios = {cache: ratio(f"{cache}/0", f"{cache}/2") for cache in ("none", "memory", "file")}
    return {
        "bench": "input", "data": name, "batch": batch, "rounds": rounds, "step_ms": of_rounds("step", 1),
        "wait_ms": of_rounds("median", 3), "wait_mean_ms": of_rounds("mean", 3),
        "ratio": ratios | {"none/0 over file/2": ratio("none/0", "file/2")},
        "grain": "measured" if grain is not None else "not installed",
    }  # fmt: skip


def decoding(here: data.Split, beside: data.Split, workers: int) -> dict[str, float]:
    """Microseconds an example: by this thread, by threads of this process, and by as many processes."""
    parts = np.array_split(np.arange(min(_DECODED, len(here))), 16)
    beside.take(parts[0])  # they are started

    def timed(split: data.Split, threads: int) -> float:
        split.take(parts[0])
        with ThreadPoolExecutor(threads) as pool:
            begin = time.perf_counter()
            list(pool.map(split.take, parts))
            return round(1e6 * (time.perf_counter() - begin) / sum(map(len, parts)), 1)

    return {
        "one thread": timed(here, 1),
        f"{workers} threads": timed(here, workers),
        f"{workers} processes": timed(beside, workers),
    }


def _grain(examples: Any, batch: int) -> Callable[[], Iterator[Any]] | None:
    """Starts Grain's own reading of the decoded images, with its defaults; None where it is not installed."""
    try:
        import grain
    except ImportError:
        return None
    images, labels, loader = examples.train.inputs["image"], examples.train.target, examples.loader

    def example(k: int) -> dict[str, Any]:
        return loader.train_batch(data.Split(images[k : k + 1], labels[k : k + 1]), _Rows(), [0])

    made = grain.MapDataset.range(len(labels)).shuffle(seed=0).map(example).batch(batch).repeat()
    return lambda: iter(map(_flat, made.to_iter_dataset()))


class _Rows:
    """In place of a stream: the row is the position."""

    @staticmethod
    def rows(positions: np.ndarray) -> np.ndarray:
        return positions


def _flat(batch: data.HostBatch) -> data.HostBatch:
    """Of batches of single examples [b, 1, ...]."""
    flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in batch.items() if name != "inputs"}
    return flat | {"inputs": {name: array.reshape(-1, *array.shape[2:]) for name, array in batch["inputs"].items()}}


def _config(name: str) -> Any:
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "experiments"))
    import cnn_mnist

    config = cnn_mnist.get_config()
    config.data.name = name
    return config


@contextlib.contextmanager
def _copied(name: str) -> Iterator[str]:
    """The prepared folder without what runs have cached in it, so that the cache is written here and then removed."""
    root = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    with tempfile.TemporaryDirectory() as folder:
        try:
            shutil.copytree(root / name, f"{folder}/{name}", ignore=shutil.ignore_patterns("jaxdist-cache"))
        except OSError as e:
            raise SystemExit(f"bench: {name!r} cannot be read from {root} ($TFDS_DATA_DIR): {e}.") from None
        yield folder


def table(lines: list[dict[str, Any]]) -> str:
    """Of the lines that `measure` gave, in Markdown."""
    opened, *rest = lines
    decoded = ", ".join(f"{way} {us}" for way, us in opened["decode_us_an_example"].items())
    started = ", ".join(f"{cache} {s}" for cache, s in opened["open_s"].items())
    text = [f"Decoding, microseconds an example: {decoded}. Opening {opened['examples']} examples, s: {started}.", ""]
    names = list(rest[0]["wait_ms"])
    text += [
        "Visible wait of a step, ms (cache/prefetch), median of the steps:",
        "",
        f"| batch | step, ms | {' | '.join(names)} |",
    ]
    text += ["|---" * (len(names) + 2) + "|"]
    for line in rest:
        waits = " | ".join(f"{line['wait_ms'][name]:.3f}" for name in names)
        text.append(f"| {line['batch']} | {line['step_ms']['memory/2']} | {waits} |")
    kinds = list(rest[0]["ratio"])
    text += ["", "The wait without prefetching over that with it:", "", f"| batch | {' | '.join(kinds)} |"]
    text += ["|---" * (len(kinds) + 1) + "|"]
    text += [f"| {line['batch']} | {' | '.join(str(line['ratio'][kind]) for kind in kinds)} |" for line in rest]
    return "\n".join(text)
