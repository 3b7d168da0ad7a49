"""Train and evaluate one model under one strategy; knows no strategy's name."""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from jaxdist import cluster as cluster_lib
from jaxdist import config as config_lib
from jaxdist import data, strategies
from jaxdist.checkpoint import checkpointer
from jaxdist.checkpoint.restore import restore
from jaxdist.checkpoint.run_directory import hold_run_directory
from jaxdist.cluster import Cluster
from jaxdist.cluster.process_group import ProcessGroup
from jaxdist.cluster.rendezvous import Peers
from jaxdist.errors import ConnectionLost, PeerError, Preempted, UsageError
from jaxdist.runtime import compilation
from jaxdist.runtime.fault_injection import Faults
from jaxdist.state import Position, TrainState
from jaxdist.strategies import Strategy
from jaxdist.task import Task
from jaxdist.train.evaluate import evaluation_row
from jaxdist.train.recorder import Recorder
from jaxdist.train.setup import (
    Examples,
    fingerprints,
    load_examples,
    make_task,
    num_params,
    run_examples,
    total_examples,
)
from jaxdist.train.writer import Writer


def train_and_evaluate(config: ConfigDict, workdir: str, cluster: Cluster | None = None) -> dict[str, Any]:
    """Trains as `config` says, resuming from `workdir` where it holds checkpoints. Collective over the cluster.

    Returns:
      The summary (what the chief writes to `summary.json`).

    Raises:
      UsageError: configuration, data, run directory or cluster are not fit for training; nothing was trained.
      PeerError: another process failed or was lost.
      Preempted: SIGTERM came; the state was saved.
    """
    cluster = cluster or Cluster()
    config_lib.validate(config)
    compilation.set_up(config.compilation_cache, config.model.param_dtype)
    with contextlib.ExitStack() as stack:
        # To the very end: a second SIGTERM while the state is being saved must not undo the first one's good work.
        stop_asked = stack.enter_context(_sigterm_sets_a_flag())
        if cluster.is_chief:  # whatever happens: servers that no run has used, or will use, must not wait for one
            stack.push(lambda _, e, __: strategies.end_servers(cluster.server_addresses, cluster.security, e))
        peers = None
        if strategies.needs_peers(config.strategy.name):
            peers = cluster_lib.connect(
                cluster,
                facts=config_lib.comparable(config),
                settings=config.cluster,
                collectives=strategies.needs_collectives(config.strategy, cluster.num_processes),
            )
        try:
            with hold_run_directory(workdir, config) if cluster.is_chief else contextlib.nullcontext():
                summary = _train(config, workdir, cluster, peers, stop_asked)
        except Preempted as e:
            if peers is not None and not peers.watching and cluster.is_chief:
                peers.fail(str(e), code=75)  # some may wait for what this process will not say
            cluster_lib.disconnect(peers)
            raise
        except BaseException as e:
            if peers is not None:
                blocked = peers.watching and isinstance(e, jax.errors.JaxRuntimeError | ConnectionLost)
                named = peers.diagnose(e) if blocked else None
                if named is not None:
                    raise named from e
                text = str(e) if isinstance(e, UsageError | PeerError) else f"{type(e).__name__}: {e}"
                peers.fail(text, code=2 if isinstance(e, UsageError) else 1)
            raise
        cluster_lib.disconnect(peers)
        return summary


def _train(
    config: ConfigDict, workdir: str, cluster: Cluster, peers: Peers | None, stop_asked: _StopAsked
) -> dict[str, Any]:
    begin = time.monotonic()
    examples = load_examples(config)
    task = make_task(config, examples)
    identity = fingerprints(examples, task)
    if peers is not None:
        peers.agree("data and model", identity)
    strategies.check(
        config.strategy,
        task,
        global_batch_size=config.global_batch_size,
        num_processes=cluster.num_processes,
        num_devices=cluster.num_processes * len(jax.local_devices()),
        num_servers=len(cluster.server_addresses),
    )
    strategy = strategies.build(
        config.strategy,
        task,
        global_batch_size=config.global_batch_size,
        process_id=cluster.process_id,
        num_processes=cluster.num_processes,
        server_addresses=cluster.server_addresses,
        security=cluster.security,
        signature=cluster_lib.shared_facts(config_lib.comparable(config)) | identity,
        timeouts=config.cluster,
        meeting=ProcessGroup(cluster, peers, task, config.cluster),
        run_examples=run_examples(config, len(examples.train)),
        epoch_examples=len(examples.train),
    )
    with contextlib.ExitStack() as stack:
        stack.push(lambda kind, error, trace: strategy.close(error))
        run = _Run(config, workdir, cluster, peers, examples, task, strategy, stop_asked, begin, stack)
        run.train()
        return run.finish()


class _Run:
    """One process's part of a run: the state, what was measured, and what happens between the steps."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: str,
        cluster: Cluster,
        peers: Peers | None,
        examples: Examples,
        task: Task,
        strategy: Strategy,
        stop_asked: _StopAsked,
        begin: float,
        stack: contextlib.ExitStack,
    ) -> None:
        self.config, self.cluster, self.peers, self.examples = config, cluster, peers, examples
        self.task, self.strategy, self.stop_asked, self.stack = task, strategy, stop_asked, stack
        self.num_train = len(examples.train)
        self.total = total_examples(config, self.num_train)
        self.faults = Faults(cluster.process_id)
        self.checkpoints: checkpointer.Checkpointer | None = None
        if strategy.is_chief:
            self.checkpoints = checkpointer.Checkpointer(
                workdir, keep=config.checkpoint.keep, before_commit=lambda: self.faults.at("checkpoint", -1)
            )
        restored, before = restore(self.checkpoints, task, peers)
        self.log = Recorder(self.num_train, config.early_stopping_patience, before, begin)
        self.stops_early = False
        if before is not None:
            strategy.load_state_dict(before.get("strategy", {}))
        if self.log.early_stopping.stopped:
            logging.info("It had stopped early, by early_stopping_patience; nothing is left to train.")
            self.total = restored.examples_seen
        self.state = strategy.import_state(restored, self.total)
        self.log.timer.seconds["read"] += time.monotonic() - begin
        self.writer = Writer(workdir, strategy.is_chief, self.log.started)
        stack.callback(self.writer.close)
        self.updates, self.seen = strategy.progress(self.state)
        self.start = restored.position
        self.before_step = self.looked_at = self.seen
        self.saved_at = self.updates if before is not None else -1
        unix_time_of_0 = round(time.time() - self.writer.elapsed(), 3)
        self.writer.write("event", event="clock", unix_time_of_0=unix_time_of_0, **self.here())
        if before is not None:
            self.writer.write("event", event="resumed", **self.here())
            logging.info("Resumed at update %d, epoch %.2f.", self.updates, self.seen / self.num_train)

    @property
    def takes_part(self) -> bool:
        """In evaluations and checkpoints."""
        return self.strategy.is_chief or self.strategy.collective

    def here(self) -> dict[str, Any]:
        """Where the run is: the fields that every row begins with."""
        return self.at(self.updates, self.seen)

    def at(self, updates: int, seen: int) -> dict[str, Any]:
        """The same fields, elsewhere."""
        return {"updates": updates, "examples_seen": seen, "epoch": seen / self.num_train}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase, and lets the other processes know of it."""
        with contextlib.ExitStack() as phases:
            phases.enter_context(self.log.timer.phase(name))
            phases.enter_context(self.strategy.phase(name))
            if self.peers is not None:
                phases.enter_context(self.peers.phase(name))
            yield

    def train(self) -> None:
        """Steps until the budget of examples is used up, or the run stops early; phase by phase, where there are some.

        Raises:
          Preempted: a process was asked to stop; the state is saved.
        """
        bar = self.stack.enter_context(_progress_bar(self.strategy.is_chief, self.total, self.seen))
        position = self.start
        while True:
            with contextlib.ExitStack() as leg:
                stop = self.train_phase(position, bar, leg)
                stop = self.log.take_late() or stop
                if stop and self.seen < self.total:
                    self.stop_after_saving()
                self.drain()
            if not self.strategy.may_go_on():
                return
            if self.evaluation_is_due():
                self.evaluate()
            canonical = self.save() if self.takes_part else None
            with self.phase("switch"):
                if self.checkpoints is not None:
                    self.checkpoints.wait()  # it uses the devices that are about to go
                follows = self.strategy.what_follows(end=self.stops_early, stop=self.stop_asked.said)
            if follows == "stop":
                self.stop_after_saving()
            if follows == "end":
                return
            position = self.hand_over(canonical)

    def train_phase(self, position: Position, bar: tqdm.tqdm, leg: contextlib.ExitStack) -> bool:
        """Steps until this phase has no more examples, or a rule ends it; True when all processes are to stop.

        `leg`: closes what hands out the examples.
        """

        def prepare(positions: np.ndarray) -> Any:
            batch = self.examples.loader.train_batch(self.examples.train, self.examples.stream, positions)
            return self.strategy.place(batch)

        positions = self.strategy.positions(position, self.total)
        batches = data.prefetch(prepare, positions, self.config.data.prefetch)
        leg.callback(batches.close)  # type: ignore[attr-defined]
        leg.callback(self.strategy.stop_positions)
        if self.seen < self.total:
            count = num_params(self.task)
            logging.info("Compiling the training step (%d parameters); the first run takes longest.", count)
        first, stop = True, False
        while not stop:
            with self.phase("compile" if first else "train"):
                asked = time.monotonic()
                batch = next(batches, None)
                if batch is None:
                    break
                if first:
                    self.faults.at("compile", self.updates)
                was_updates, was = self.updates, self.seen
                stop = self.step(batch, time.monotonic() - asked, first)
            first = False
            bar.update(max(self.seen - was, 0))
            self.faults.at("update", self.updates)
            if _crossed(was_updates, self.updates, self.config.log_every_steps):
                stop = self.log_row() or stop
                bar.set_postfix({k: f"{self.log.last_row[k]:.3f}" for k in ("loss", "accuracy")})
                if self.strategy.phase_is_over(self.here() | self.log.last_row):
                    break
            if self.seen >= self.total:
                break
            if self.evaluation_is_due():
                stop = self.log.take_late() or stop
                self.evaluate()
            if self.stops_early:
                break
            if self.checkpoint_is_due(was, was_updates):
                stop = self.log.take_late() or stop
                self.save()
        return stop

    def hand_over(self, canonical: TrainState | None) -> Position:
        """To the next phase, from the state of this one's end; collective. Returns where it begins."""
        with self.phase("switch"):
            self.faults.at("switch", self.updates)
            self.state = None  # nothing may hold on to their arrays
            self.state, position = self.strategy.next_phase(canonical)
            self.faults.at("switched", self.updates)
        self.updates, self.seen = self.strategy.progress(self.state)
        # An evaluation that was due is done, and a worker that was behind the chief must not find it due once more:
        # from here on evaluations may be collective.
        self.before_step = self.looked_at = self.seen
        self.write_events()
        return position

    def step(self, batch: Any, waited: float, first: bool) -> bool:
        """One training step; True when all processes are to stop."""
        was = self.before_step = self.seen
        self.state, metrics = self.strategy.train_step(self.state, batch, self.stop_asked.said)
        self.updates, self.seen = self.strategy.progress(self.state)
        stop = self.log.add_step(metrics, was, self.seen, waited=waited, timed=not first)
        if first or self.seen >= self.total:
            stop = self.log.take_late() or stop
        if self.peers is not None:
            self.peers.progress(self.updates)
        self.write_events()
        return stop

    def drain(self) -> None:
        """Waits for what other processes still have under way."""
        was = self.seen
        with self.phase("train"):
            self.state, metrics = self.strategy.drain(self.state)
            self.updates, self.seen = self.strategy.progress(self.state)
            if metrics is not None:
                self.log.add_step(metrics, was, self.seen, waited=0.0, timed=True)
        self.write_events()
        if self.log.window.count or self.log.has_late:
            self.log_row()

    def write_events(self) -> None:
        for event in self.strategy.events():
            self.writer.write("event", **self.here(), **event)
        self.note_evaluations()

    def note_evaluations(self) -> bool:
        """Writes what another process has evaluated; False where no other does."""
        rows = self.strategy.evaluations()
        for row in rows or ():
            self.note_evaluation(row | {"epoch": row["examples_seen"] / self.num_train})
            self.decide_on_stopping(row)
        return rows is not None

    def decide_on_stopping(self, row: dict[str, Any]) -> None:
        """Looks whether the holdout's loss still falls."""
        if "holdout_loss" not in row:
            return
        stops = self.log.early_stopping.should_stop(row["holdout_loss"])
        if self.strategy.collective and self.peers is not None and self.peers.watching:  # as the chief has seen them
            stops = self.peers.gather(f"early stopping at {row['updates']}", stops)[0]
        if not stops:
            return
        self.stops_early = True
        patience = self.config.early_stopping_patience
        logging.info("Stopping early: the holdout loss has not fallen for %d evaluations.", patience)
        self.writer.write("event", event="stopped_early", **self.here())

    def log_row(self) -> bool:
        """Writes a train row; True when the last steps said stop."""
        with self.phase("train"):
            stop = self.log.take_late()
        rate = self.task.learning_rate(self.before_step) * self.strategy.learning_rate_scale
        row = self.log.window_row() | {"learning_rate": rate} | self.strategy.row()
        self.writer.write("train", **self.here(), **row)
        return stop

    def evaluation_is_due(self) -> bool:
        return _crossed(self.looked_at, self.seen, self.config.eval_every_epochs * self.num_train)

    def evaluate(self) -> None:
        """Evaluates, unless somebody else does, and decides by it."""
        self.looked_at = self.seen
        if not self.takes_part or self.note_evaluations():
            return
        with self.phase("evaluate"):
            state = self.strategy.snapshot(self.state)
            row = self.at(*self.strategy.progress(state)) | evaluation_row(
                self.strategy, state, self.examples, self.config
            )
        self.note_evaluation(row)
        self.decide_on_stopping(row)

    def note_evaluation(self, row: dict[str, Any]) -> None:
        if row["updates"] >= self.log.last_evaluation.get("updates", 0):  # another process's may come late
            self.log.last_evaluation = {k: v for k, v in row.items() if k not in ("examples_seen", "epoch")}
        self.writer.write("eval", **row)
        words = "epoch %.2f: validation loss %.4f, accuracy %.2f %%"
        logging.info(words, row["epoch"], row["loss"], 100 * row["accuracy"])

    def checkpoint_is_due(self, was: int, was_updates: int) -> bool:
        every = self.config.checkpoint
        return _crossed(was, self.seen, every.every_epochs * self.num_train) or _crossed(
            was_updates, self.updates, every.every_updates
        )

    def save(self) -> TrainState | None:
        """Exports the state and has it written in the background; returns it where this process takes part."""
        if not self.takes_part:
            return None
        with self.phase("checkpoint"):
            canonical = self.strategy.export_state(self.state)
            again, self.saved_at = self.saved_at == canonical.updates, canonical.updates
            if self.checkpoints is not None and not again:
                what = self.at(canonical.updates, canonical.examples_seen)
                kept = self.log.to_json() | {"strategy": self.strategy.state_dict()}
                self.checkpoints.save(canonical, kept, lambda: self.writer.write("event", event="saved", **what))
        return canonical

    def stop_after_saving(self) -> NoReturn:
        """Raises `Preempted` once the state is safe."""
        if self.saved_at != self.updates:
            self.save()
        with self.phase("checkpoint"):
            if self.checkpoints is not None:
                self.checkpoints.close()
        raise Preempted(
            f"Stopped by SIGTERM after saving update {self.updates} (epoch {self.seen / self.num_train:.2f} of "
            f"{self.total / self.num_train:.2f}); start again to go on."
        )

    def finish(self) -> dict[str, Any]:
        """The last evaluation, checkpoint and summary; collective."""
        if self.takes_part and self.log.last_evaluation.get("updates") != self.updates:
            with self.phase("evaluate"):
                row = self.here() | evaluation_row(self.strategy, self.state, self.examples, self.config)
            self.note_evaluation(row)
        if self.saved_at != self.updates:
            self.save()
        with self.phase("checkpoint"):  # the chief finishes writing, the others wait for it
            if self.checkpoints is not None:
                self.checkpoints.close()
            summary = self.summarise()
            self.write_events()
        self.writer.summarise(summary)
        return summary

    def summarise(self) -> dict[str, Any]:
        """The summary of a finished run; collective."""
        own = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, compilation.counts()["compiled"]]
        held = self.strategy.bytes_held(self.state)
        own += [held["params"], held["opt_state"]]
        if self.peers is not None and self.peers.watching:
            per_worker = self.peers.gather("memory", own, timeout=self.config.cluster.compile_timeout_seconds)
        else:
            per_worker = self.strategy.gather(own)
        log, epoch = self.log, self.log.epoch
        # A run ends up to one update before its last epoch does; a mere beginning of an epoch is not "the last epoch".
        last = epoch if 2 * epoch.count >= log.last_epoch.count else log.last_epoch
        return {
            "strategy": self.config.strategy.name,
            "num_workers": self.cluster.num_processes,
            "num_servers": len(self.cluster.server_addresses),
            "num_params": num_params(self.task),
            "num_epochs": self.config.num_epochs,
            "updates": self.updates,
            "examples_seen": self.seen,
            "train_loss": last.loss,
            "train_accuracy": last.accuracy,
            "validation_loss": log.last_evaluation.get("loss"),
            "validation_accuracy": log.last_evaluation.get("accuracy"),
            "elapsed_seconds": round(log.elapsed(), 3),
            "images_per_second": round(log.timed_examples / max(log.timer.seconds["train"], 1e-9), 2),
            "phase_seconds": {k: round(v, 3) for k, v in log.timer.seconds.items()},
            "peak_memory_bytes": [w[0] for w in per_worker],
            "param_bytes_per_process": [w[2] for w in per_worker],
            "optimizer_bytes_per_process": [w[3] for w in per_worker],
            "programs_compiled": [w[1] for w in per_worker],
        } | self.strategy.summary()


def _crossed(before: int, after: int, every: float) -> bool:
    """Whether a count that rose from `before` to `after` passed a multiple of `every`; never for every=0."""
    return bool(every) and int(after / every) > int(before / every)


class _StopAsked:
    """Whether SIGTERM has come. Not a threading.Event: its lock must not be taken inside a signal handler."""

    said = False


@contextlib.contextmanager
def _sigterm_sets_a_flag() -> Iterator[_StopAsked]:
    """While open, SIGTERM sets the flag instead of ending the process (in the main thread alone)."""
    asked = _StopAsked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(*_: object) -> None:
        asked.said = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _progress_bar(enabled: bool, total: int, done: int) -> Iterator[tqdm.tqdm]:
    """A bar on the chief's terminal; nothing elsewhere."""
    shown = enabled and sys.stderr.isatty()
    with tqdm.tqdm(total=total, initial=done, disable=not shown, unit="image", unit_scale=True) as bar:
        yield bar
