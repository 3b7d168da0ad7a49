"""Training and evaluation under PyTorch as a user of DDP would write them, on our examples: for tools/torch_run.py.

Batches are made by this package's loader in the process of a DataLoader, whole ones, which is quicker than PyTorch's
example by example; it shares the cores of the process that trains.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch_operators
import torch_reference
import torch_side
from ml_collections import ConfigDict
from torch.nn import functional as F
from torch.utils.data import DataLoader

from jaxdist import data

_LAYOUT_EXAMPLES = 64  # at most, of a trial of a memory layout


class Examples:
    """The data of the run, read without jax."""

    def __init__(self, config: ConfigDict) -> None:
        d = config.data
        found = data.load(d.name, data_dir=d.data_dir, cache=d.cache, seed=config.seed, options=d.options.to_dict())
        count = (d.train_examples or len(found.train)) - d.holdout_examples
        self.train = found.train.select(0, count)
        self.evaluation = found.evaluation.select(0, d.eval_examples or len(found.evaluation))
        self._normalised = {"scales": data.scales_of(found), "seed": config.seed, "augment": d.augment}
        self._means = data.mean_of(self.train)
        self._loader = data.Loader(means=self._means, **self._normalised)
        self._stream = data.ExampleStream(count, config.seed)

    def train_batch(self, positions: np.ndarray) -> data.HostBatch:
        return self._loader.train_batch(self.train, self._stream, positions)

    def in_float64(self, positions: np.ndarray) -> data.HostBatch:
        """The same, for comparisons."""
        loader = data.Loader(means=self._means, dtype=np.float64, **self._normalised)
        return loader.train_batch(self.train, self._stream, positions)

    def eval_batches(self, size: int, part: int, parts: int) -> Iterator[data.HostBatch]:
        return self._loader.eval_batches(self.evaluation, size, part, parts)


class Batches:
    """A DataLoader's data set: one item is a whole batch of this process, with the seconds that making it took."""

    def __init__(self, make: Callable[[Any], data.HostBatch], channels_last: bool) -> None:
        self._make, self._channels_last = make, channels_last

    def __getitem__(self, item: Any) -> dict[str, Any]:
        begin = time.perf_counter()
        batch = self._make(item)
        images = torch.from_numpy(batch["inputs"]["image"]).permute(0, 3, 1, 2)  # that alone is channels last
        made: dict[str, Any] = {"image": images if self._channels_last else images.contiguous()}
        made["target"] = torch.from_numpy(batch["target"].astype(np.int64))
        if "mask" in batch:
            made["mask"] = torch.from_numpy(batch["mask"])
        return made | {"seconds": time.perf_counter() - begin}


def loaded(batches: Batches, items: Sequence[Any], prefetch: int) -> Any:
    """Iterates over the batches, made ahead by a process where `prefetch` is above 0."""
    ahead: dict[str, Any] = {"num_workers": 1, "prefetch_factor": prefetch} if prefetch else {}
    return iter(DataLoader(batches, sampler=items, batch_size=None, **ahead))  # type: ignore[arg-type]


class Timer:
    """Seconds of each phase, as the rows and the summary have them."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("startup", "read", "preprocess", "compile", "train", "evaluate"), 0.0)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - begin

    def summary(self, elapsed: float, made: float) -> dict[str, Any]:
        """`made`: seconds of making batches, of which training and evaluations waited for 'preprocess' at most."""
        other = max(elapsed - sum(self.seconds.values()), 0.0)
        phases = {name: round(value, 3) for name, value in (*self.seconds.items(), ("other", other))}
        hidden = {"preprocess": round(max(made - self.seconds["preprocess"], 0.0), 3)}
        return {"phase_seconds": phases, "hidden_seconds": hidden}


class Rows:
    """`metrics.jsonl`; on process 0 alone."""

    def __init__(self, workdir: pathlib.Path, enabled: bool, started: float) -> None:
        self.started = started
        self._file = open(workdir / "metrics.jsonl", "w") if enabled else None  # noqa: SIM115 - open to the end

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def write(self, kind: str, **row: Any) -> None:
        if self._file is not None:
            line = {"kind": kind, "time": round(self.elapsed(), 3)} | row
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def update_rule(net: Any, config: ConfigDict) -> Any:
    """Adadelta with the constants of ours; the L2 penalty is of kernels alone."""
    kernels = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    sets = [{"params": kernels, "weight_decay": config.optim.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.Adadelta(sets, lr=config.optim.learning_rate, rho=0.95, eps=1e-7)


def first_losses(net: Any, config: ConfigDict, examples: Examples) -> dict[str, float]:
    """What `torch_reference` has of our side, of this one; `net` has no dropout, and becomes float64."""
    one = examples.in_float64(np.arange(torch_reference.EXAMPLES))
    net = net.double()
    images = torch.from_numpy(one["inputs"]["image"].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(one["target"].astype(np.int64))
    rule = update_rule(net, config)
    loss, norm = torch_side.loss_and_norm(net, images, labels)
    found = {"loss": loss, "gradient_norm": norm, "parameters": sum(p.numel() for p in net.parameters())}
    for k in range(1, torch_reference.UPDATES + 1):
        rule.step()
        rule.zero_grad()
        found[f"loss_after_{k}"], _ = torch_side.loss_and_norm(net, images, labels)
    return found


def quicker_layout(net: Any, config: ConfigDict, examples: Examples, processes: int) -> Any:
    """Of the memory layouts of images and kernels, by a few steps without the others."""
    size = min(config.global_batch_size // processes, _LAYOUT_EXAMPLES)
    one = examples.train_batch(np.arange(size))
    labels = torch.from_numpy(one["target"].astype(np.int64))

    def stepper(layout: Any) -> torch_side.Run:
        tried = copy.deepcopy(net).to(memory_format=layout)
        images = torch.from_numpy(one["inputs"]["image"]).permute(0, 3, 1, 2).contiguous(memory_format=layout)

        def run(steps: int) -> None:
            for _ in range(steps):
                tried.zero_grad()
                F.cross_entropy(tried(images), labels).backward()

        return run

    trials = [stepper(layout) for layout in torch_side.LAYOUTS]
    return torch_side.LAYOUTS[torch_side.quicker(trials, processes, rounds=4, steps=1)]


@dataclasses.dataclass
class Sums:
    """Of this process: loss, hits and examples; and the steps that were timed, with their seconds when it began."""

    values: list[float] = dataclasses.field(default_factory=lambda: [0.0] * 3)
    steps: int = 0
    seconds_before: float = 0.0
    waited_before: float = 0.0

    def add(self, loss: float, hits: float, examples: int, timed: bool) -> None:
        self.values = [a + b for a, b in zip(self.values, (loss, hits, examples), strict=True)]
        self.steps += timed


class Trainer:
    """Trains and evaluates; collective over the processes."""

    def __init__(self, config: ConfigDict, number: int, processes: int, examples: Examples, net: Any, layout: Any,
                 timer: Timer) -> None:  # fmt: skip
        self.config, self.number, self.processes, self.examples = config, number, processes, examples
        self.timer, self.layout = timer, layout
        self.plain = net.to(memory_format=layout)
        self.net = torch_side.distributed(self.plain, processes)
        self.rule = update_rule(self.plain, config)
        self.window, self.epoch, self.last_epoch = Sums(), Sums(), Sums()
        self.evaluation: dict[str, float] = {}
        self.made_seconds = 0.0  # in the DataLoader's process
        self.waited = 0.0  # for batches, by the steps that are timed

    def step(self, batch: dict[str, Any]) -> tuple[float, float]:
        """One update; (sum of the losses, hits) of this process's examples."""
        with torch_operators.named(torch_operators.FORWARD):
            logits = self.net(batch["image"])
            loss = F.cross_entropy(logits, batch["target"])
        with torch_operators.named(torch_operators.BACKWARD):
            loss.backward()
        with torch_operators.named(torch_operators.OPTIMIZER):
            self.rule.step()
            self.rule.zero_grad()
        hits = (logits.detach().argmax(1) == batch["target"]).sum()
        return loss.item() * len(batch["target"]), float(hits)

    def over_all(self, values: Sequence[float]) -> list[float]:
        """The sums over the processes."""
        held = torch.tensor(values, dtype=torch.float64)
        if self.processes > 1:
            torch.distributed.all_reduce(held)
        return held.tolist()

    def train(self, rows: Rows) -> dict[str, Any]:
        """All updates of the run; what a summary says of them."""
        config, size, train = self.config, self.config.global_batch_size, len(self.examples.train)
        updates = int(config.num_epochs * train // size)
        updates = min(updates, config.max_updates or updates)
        share = size // self.processes
        items = [np.arange(k * size + self.number * share, k * size + (self.number + 1) * share)
                 for k in range(updates)]  # fmt: skip
        make = Batches(self.examples.train_batch, self.layout == torch.channels_last)
        with self.timer.phase("read"):
            batches = loaded(make, items, config.data.prefetch)
        start = {"updates": 0, "examples_seen": 0, "epoch": 0.0}
        rows.write("event", event="clock", unix_time_of_0=round(time.time() - rows.elapsed(), 3), **start)
        for done in range(1, updates + 1):
            first = done == 1  # it makes oneDNN's primitives: ours compiles meanwhile, and is not timed either
            batch = self.taken(batches, timed=not first)
            with self.timer.phase("compile" if first else "train"):
                loss, hits = self.step(batch)
            for sums in (self.window, self.epoch):
                sums.add(loss, hits, share, timed=not first)
            place = {"updates": done, "examples_seen": done * size, "epoch": done * size / train}
            if done % config.log_every_steps == 0 or done == updates:
                self.train_row(rows, place)
            if _crossed((done - 1) * size, done * size, train):
                self.last_epoch, self.epoch = self.epoch, Sums()
            if _crossed((done - 1) * size, done * size, config.eval_every_epochs * train) or done == updates:
                self.evaluate(rows, place)
        if 2 * self.epoch.values[2] >= self.last_epoch.values[2]:  # as our summaries choose the last epoch
            self.last_epoch = self.epoch
        self.batch = batch
        last = self.over_all(self.last_epoch.values)
        return {
            "num_epochs": config.num_epochs,
            "updates": updates,
            "examples_seen": updates * size,
            "train_loss": last[0] / last[2],
            "train_accuracy": last[1] / last[2],
            "validation_loss": self.evaluation["loss"],
            "validation_accuracy": self.evaluation["accuracy"],
            "images_per_second": round((updates - 1) * size / max(self.timed_seconds, 1e-9), 2),
            "wait_seconds": {"data": round(self.waited, 3)},
        }

    @property
    def timed_seconds(self) -> float:
        """Of all steps but the first, with what they waited for their batches."""
        return self.timer.seconds["train"] + self.waited

    def taken(self, batches: Any, timed: bool) -> Any:
        """The next batch; what it is waited for is of the phase 'preprocess'."""
        before = self.timer.seconds["preprocess"]
        with self.timer.phase("preprocess"):
            batch = next(batches, None)
        self.made_seconds += batch["seconds"] if batch else 0.0
        self.waited += (self.timer.seconds["preprocess"] - before) * timed
        return batch

    def train_row(self, rows: Rows, place: dict[str, Any]) -> None:
        """Of the steps since the last one; collective."""
        with self.timer.phase("train"):
            total = self.over_all(self.window.values)
        window, seconds = self.window, self.timed_seconds
        row = {"loss": total[0] / total[2], "accuracy": total[1] / total[2]}
        if window.steps:
            taken = seconds - window.seconds_before
            row["images_per_second"] = round(window.steps * self.config.global_batch_size / taken, 2)
            row["step_ms"] = round(1e3 * taken / window.steps, 3)
            row["data_wait_ms"] = round(1e3 * (self.waited - window.waited_before) / window.steps, 3)
        rows.write("train", **place, **row, learning_rate=self.config.optim.learning_rate)
        self.window = Sums(seconds_before=seconds, waited_before=self.waited)

    def evaluate(self, rows: Rows, place: dict[str, Any]) -> None:
        """Over the evaluation split, each process its part of every batch; collective."""
        size = self.config.eval_batch_size or self.config.global_batch_size
        size = -(-size // self.processes) * self.processes
        totals = Sums()
        with self.timer.phase("evaluate"):
            self.plain.eval()
            made = self.examples.eval_batches(size, self.number, self.processes)
            of_next = Batches(lambda _: next(made), self.layout == torch.channels_last)
            count = range(-(-len(self.examples.evaluation) // size))
            batches = loaded(of_next, count, self.config.data.prefetch)
        while (batch := self.taken(batches, timed=False)) is not None:
            with self.timer.phase("evaluate"), torch.no_grad():
                logits, mask = self.plain(batch["image"]), batch["mask"]
                losses = F.cross_entropy(logits, batch["target"], reduction="none")
                hits = (logits.argmax(1) == batch["target"]).float()
                totals.add(float((losses * mask).sum()), float((hits * mask).sum()), int(mask.sum()), timed=False)
        with self.timer.phase("evaluate"):
            self.plain.train()
            found = self.over_all(totals.values)
        self.evaluation = {"loss": found[0] / found[2], "accuracy": found[1] / found[2]}
        rows.write("eval", **place, **self.evaluation)

    def operators(self, steps: int) -> dict[str, Any]:
        """The table of further steps on the last batch. Their state is no longer part of the run."""
        return torch_operators.table(
            lambda: (self.step(self.batch), None)[1], steps=steps, processes=self.processes, layout=self.layout
        )


def _crossed(before: int, after: int, every: float) -> bool:
    return every > 0 and after // every > before // every
