"""The training loop: steps, and what happens between them. Knows phases and their strategies, and no strategy's name.

phase 1: step step log evaluate step save ... | drain, save, next phase | phase 2: step ... | drain, evaluate, save
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import tqdm
from ml_collections import ConfigDict

from jaxdist import config as config_lib
from jaxdist import data
from jaxdist.checkpoint import checkpointer
from jaxdist.checkpoint.restore import restore
from jaxdist.cluster import Cluster
from jaxdist.cluster.process_group import ProcessGroup
from jaxdist.cluster.watchdog import PHASE_BOUNDARY
from jaxdist.errors import Preempted, Terminated, UsageError
from jaxdist.profiling.run_profile import RunProfile
from jaxdist.runtime import profiler
from jaxdist.runtime.fault_injection import Faults
from jaxdist.runtime.stop_signal import StopSignal
from jaxdist.state import Position, TrainState
from jaxdist.task import Task
from jaxdist.train.callbacks import Callback, Callbacks, RunView
from jaxdist.train.due import crossed
from jaxdist.train.early_stopping import EarlyStopping
from jaxdist.train.evaluate import HOLDOUT, evaluation_row
from jaxdist.train.health import Health
from jaxdist.train.measurements import Measurements
from jaxdist.train.metrics import PhaseTimer
from jaxdist.train.phases import Phases
from jaxdist.train.progress_bar import progress_bar
from jaxdist.train.recorder import Recorder, facts, own_numbers
from jaxdist.train.setup import Examples, num_params, total_examples
from jaxdist.train.writer import Writer


class TrainingLoop:
    """One process's part of a run, from the restored or initial state to the summary.

    Args:
      timer: counts since this process began on the run.
      stack: closes what is opened here.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: str,
        cluster: Cluster,
        group: ProcessGroup,
        examples: Examples,
        task: Task,
        phases: Phases,
        stop_signal: StopSignal,
        callbacks: Sequence[Callback],
        profile: RunProfile,
        timer: PhaseTimer,
        stack: contextlib.ExitStack,
    ) -> None:
        self.config, self.cluster, self.group, self.examples = config, cluster, group, examples
        self.task, self.phases, self.stop_signal, self.stack = task, phases, stop_signal, stack
        self.profile = profile
        self.num_train = examples.epoch_examples
        self.total = total_examples(config, self.num_train)
        self.faults = Faults(cluster.process_id)
        self.checkpoints: checkpointer.Checkpointer | None = None
        health = Health(task.nonfinite, self.newest_checkpoint, task.objective.chance)
        if cluster.is_chief:
            self.checkpoints = checkpointer.Checkpointer(
                workdir,
                keep=config.checkpoint.keep,
                look_at=health.array,
                before_commit=lambda: self.faults.at("checkpoint", -1),
                note_seconds=functools.partial(timer.hide, "checkpoint"),
            )
        restored, before = restore(self.checkpoints, task, group)
        decided_by = task.objective.metric(config.early_stopping_metric)
        self.decided_by = decided_by.name
        stopping = EarlyStopping(
            config.early_stopping_patience,
            higher_is_better=bool(decided_by.higher_is_better),
            metric=decided_by.name,
        )
        self.measured = Measurements(self.num_train, stopping, before, timer, task.objective)
        self.shown = ("loss", *(metric.name for metric in task.objective.training_metrics))
        self.stops_early = False
        if before is not None:
            phases.load_state_dict(before.get("strategy", {}))
        if self.measured.early_stopping.stopped:
            logging.info("It had stopped early, by early_stopping_patience; nothing is left to train.")
            self.total = restored.examples_seen
        begun = Terminated("SIGTERM came before the first update: there was nothing to save.")
        if before is not None:
            begun = Terminated(f"SIGTERM came before training went on from update {restored.updates}; start again.", 75)
        self.end_at_once(begun, restored.updates)
        self.state: Any = phases.start(restored, self.total)
        writer = Writer(workdir, cluster.is_chief, self.measured.started)
        stack.callback(writer.close)
        self.recorder = Recorder(
            self.measured, writer, Callbacks(callbacks, self.view), health, self.num_train, task.objective
        )
        self.start = restored.position
        self.before_step = self.looked_at = self.seen
        self.saved_at = (self.updates, self.seen) if before is not None else (-1, -1)
        timer.enter("other")
        self.recorder.start(self.here(), resumed=before is not None)
        profile.tell(lambda event: self.recorder.event(self.here(), event))

    @property
    def updates(self) -> int:
        return self.state.updates

    @property
    def seen(self) -> int:
        return self.state.examples_seen

    @property
    def takes_part(self) -> bool:
        """In evaluations and checkpoints."""
        return self.cluster.is_chief or self.phases.strategy.collective

    def here(self) -> dict[str, Any]:
        """Where the run is: the fields that every row begins with."""
        return self.recorder.where(self.updates, self.seen)

    def newest_checkpoint(self) -> str:
        """A sentence, for whoever has to go back to it."""
        newest = self.checkpoints.newest() if self.checkpoints is not None else ""
        return f"The newest checkpoint is {newest}." if newest else "There is no checkpoint on this process."

    def view(self) -> RunView:
        """What callbacks see."""
        place = self.here()
        return RunView(
            process_id=self.cluster.process_id,
            num_processes=self.cluster.num_processes,
            is_chief=self.cluster.is_chief,
            config=config_lib.flatten(self.config),
            strategy=self.phases.name,
            _arrays=lambda: self.state.arrays,
            metrics=self.task.objective.metric_names,
            **place,
        )

    @contextlib.contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Times what this process is doing, and lets the other processes know of it."""
        with self.measured.timer.phase(name), self.group.activity(name), profiler.span(profiler.ACTIVITIES.get(name)):
            yield

    @contextlib.contextmanager
    def away(self, name: str) -> Iterator[Any]:
        """The same for what is not training: gives the state to evaluate or save."""
        with self.activity(name), self.phases.strategy.away(self.state, name) as state:
            yield state

    def train(self) -> None:
        """Steps until the budget of examples is used up, or the run stops early; phase by phase.

        Raises:
          Preempted: a process was asked to stop; the state is saved.
        """
        bar = self.stack.enter_context(progress_bar(self.cluster.is_chief, self.total, self.seen))
        position = self.start
        while True:
            with contextlib.ExitStack() as phase:
                stop = self.train_phase(position, bar, phase)
                stop = self.measured.take_late() or stop
                if stop and self.seen < self.total:
                    self.stop_after_saving()
                self.drain()
            if not self.phases.may_go_on:
                return
            if self.evaluation_is_due():
                self.evaluate()
            canonical = self.save() if self.takes_part else None
            with self.activity(PHASE_BOUNDARY):
                if self.checkpoints is not None:
                    self.checkpoints.wait()  # it uses the devices that are about to go
                follows = self.phases.what_follows(self.state, end=self.stops_early, stop=self.stop_signal.received)
            if follows == "stop":
                self.stop_after_saving()
            if follows == "end":
                return
            position = self.next_phase(canonical)

    def train_phase(self, position: Position, bar: tqdm.tqdm, phase: contextlib.ExitStack) -> bool:
        """Steps until this phase has no more examples, or a rule ends it; True when all processes are to stop.

        `phase`: closes what hands out the examples.
        """

        def prepare(positions: np.ndarray) -> Any:
            self.profile.examples = len(positions)
            with profiler.span(profiler.PREPROCESS):
                batch = self.examples.loader.train_batch(self.examples.train, self.examples.stream, positions)
                return self.phases.strategy.place(batch)

        positions = self.phases.strategy.positions(position, self.phases.end)
        self.check_whole_rounds(position, positions.waits_for)
        batches = data.prefetch(prepare, positions, self.config.data.prefetch, self.config.data.workers)
        phase.callback(batches.close)
        phase.callback(positions.close)
        if self.seen < self.total:
            count = num_params(self.task)
            logging.info("Compiling the training step (%d parameters); the first run takes longest.", count)
        first, stop = True, False
        while not stop:
            with self.activity("compile" if first else "train"):
                with profiler.span(profiler.DATA_WAIT):
                    batch = self.measured.next_batch(batches, positions.waits_for, timed=not first)
                if batch is None:
                    break
                if first:
                    self.faults.at("compile", self.updates)
                was_updates, was = self.updates, self.seen
                stop = self.step(batch, first)
            if first:
                self.stop_signal.hold()
            first = False
            self.profile_step()
            bar.update(max(self.seen - was, 0))
            self.faults.at("update", self.updates)
            if crossed(was_updates, self.updates, self.config.log_every_steps):
                stop = self.log_row() or stop
                bar.set_postfix({k: f"{self.recorder.last_row[k]:.3f}" for k in self.shown})
                if self.phases.is_over(self.recorder.last_row):
                    break
            if self.seen >= self.total:
                break
            if self.evaluation_is_due():
                stop = self.measured.take_late() or stop
                self.evaluate()
            if self.stops_early:
                break
            if self.checkpoint_is_due(was, was_updates):
                stop = self.measured.take_late() or stop
                self.save()
        return stop

    def check_whole_rounds(self, position: Position, waits_for: str) -> None:
        """Of distributed data: shares that workers had claimed and not finished belong to some of them, and cannot be
        taken in the order in which synchronous workers take theirs.

        Raises:
          UsageError: this phase would have to.
        """
        uneven = position.pending or position.seen % self.config.global_batch_size
        if self.examples.partition is not None and not waits_for and uneven:
            raise UsageError(
                f"data.partition={self.config.data.partition!r}: the run was saved in the middle of an asynchronous "
                f"phase, after {position.seen} examples, and each worker has got another way through its part. Go on "
                "with the asynchronous strategy to the end of that phase."
            )

    def end_at_once(self, error: Terminated, saved: int) -> None:
        """Until this process has done a step, SIGTERM ends it with `error`, as nothing is lost; the chief as long as no
        other process has got past update `saved`."""
        phases, is_chief = self.phases, self.cluster.is_chief
        self.stop_signal.end_at_once(error, lambda: not is_chief or phases.updates_of_all() <= saved)

    def next_phase(self, canonical: TrainState | None) -> Position:
        """From the state of this phase's end; collective. Returns where the next begins."""
        with self.activity(PHASE_BOUNDARY):
            self.faults.at(PHASE_BOUNDARY, self.updates)
            between = Terminated(f"SIGTERM came between two phases; update {self.updates} is saved, start again.", 75)
            saved = self.updates
            if self.group.fate_sharing or self.checkpoints is not None:  # else nobody would hear of it
                self.end_at_once(between, saved)
            self.state = _Ended(self.updates, self.seen)  # nothing may hold on to the arrays
            self.state, position = self.phases.next_phase(canonical)
            self.end_at_once(between, saved)
            self.faults.at("switched", self.updates)
        # An evaluation that was due is done, and a worker that was behind the chief must not find it due once more:
        # from here on evaluations may be collective.
        self.before_step = self.looked_at = self.seen
        self.record_events()
        return position

    def step(self, batch: Any, first: bool) -> bool:
        """One training step; True when all processes are to stop."""
        was = self.before_step = self.seen
        with profiler.span(profiler.STEP):
            self.state, metrics = self.phases.strategy.train_step(self.state, batch, self.stop_signal.received)
        waits = self.phases.strategy.report.waits()
        with profiler.span(profiler.DEVICE_WAIT):
            stop = self.measured.add_step(metrics, was, self.seen, waits=waits, timed=not first)
        if first or self.seen >= self.total:
            stop = self.measured.take_late() or stop
        self.group.note_progress(self.updates)
        self.record_events()
        return stop

    def profile_step(self) -> None:
        if self.profile.waits:
            with self.activity("profile"):
                self.profile.at(self.updates, self.state)

    def drain(self) -> None:
        """Waits for what other processes still have under way."""
        if self.profile.waits:
            with self.activity("profile"):
                self.profile.end(self.updates, self.state)
        was = self.seen
        with self.activity("train"):
            self.state, metrics = self.phases.strategy.drain(self.state)
            if metrics is not None:
                self.measured.add_step(metrics, was, self.seen, waits={}, timed=True)
        self.record_events()
        if self.measured.window.count or self.measured.has_late:
            self.log_row()

    def record_events(self) -> None:
        for event in self.phases.events():
            self.recorder.event(self.here(), event)
        self.record_evaluations()
        self.recorder.report_saved()

    def record_evaluations(self) -> bool:
        """Writes what another process has evaluated; False where no other does."""
        rows = self.phases.strategy.report.evaluations()
        for row in rows or ():
            self.recorder.evaluation(row | {"epoch": row["examples_seen"] / self.num_train})
            self.decide_on_stopping(row)
        return rows is not None

    def decide_on_stopping(self, row: dict[str, Any]) -> None:
        """Looks whether the holdout's metric still improves."""
        if (value := row.get(f"{HOLDOUT}{self.decided_by}")) is None:
            return
        stops = self.measured.early_stopping.should_stop(value)
        if self.phases.strategy.collective and self.group.fate_sharing:  # as the chief has seen them
            stops = self.group.gather(f"early stopping at {row['updates']}", stops, self.group.connect_timeout)[0]
        if not stops:
            return
        self.stops_early = True
        patience = self.config.early_stopping_patience
        words = "Stopping early: the holdout's %s has not improved for %d evaluations."
        logging.info(words, self.decided_by.replace("_", " "), patience)
        self.recorder.event(self.here(), {"event": "stopped_early"})

    def log_row(self) -> bool:
        """Writes a train row; True when the last steps said stop."""
        with self.activity("train"):
            stop = self.measured.take_late()
        rate = self.task.learning_rate(self.before_step) * self.phases.strategy.learning_rate_scale
        with profiler.span(profiler.LOGGING):
            self.recorder.train_row(self.here(), rate, self.phases.row())
        return stop

    def evaluation_is_due(self) -> bool:
        return crossed(self.looked_at, self.seen, self.config.eval_every_epochs * self.num_train)

    def evaluate(self) -> None:
        """Evaluates, unless somebody else does, and decides by it."""
        self.looked_at = self.seen
        if not self.takes_part or self.record_evaluations():
            return
        row = self.evaluated()
        self.recorder.evaluation(row)
        self.decide_on_stopping(row)

    def evaluated(self) -> dict[str, Any]:
        """An evaluation's row, of one consistent state. Collective where the strategy is."""
        with self.away("evaluate") as state:
            row = evaluation_row(self.phases.strategy, state, self.examples, self.config, self.measured.timer)
            return self.recorder.where(state.updates, state.examples_seen) | row

    def checkpoint_is_due(self, was: int, was_updates: int) -> bool:
        every = self.config.checkpoint
        by_examples = crossed(was, self.seen, every.every_epochs * self.num_train)
        return by_examples or crossed(was_updates, self.updates, every.every_updates)

    def save(self) -> TrainState | None:
        """Exports the state and has it written in the background; returns it where this process takes part."""
        if not self.takes_part:
            return None
        with self.away("checkpoint") as state:
            canonical = self.phases.strategy.export_state(state)
            reached = canonical.updates, canonical.examples_seen
            again, self.saved_at = self.saved_at == reached, reached
            if self.checkpoints is not None and not again:
                place = self.recorder.where(canonical.updates, canonical.examples_seen)
                kept = self.measured.to_json() | {"strategy": self.phases.state_dict()}
                self.checkpoints.save(canonical, kept, lambda: self.recorder.saved(place))
        return canonical

    def stop_after_saving(self) -> NoReturn:
        """Raises `Preempted` once the state is safe."""
        if self.saved_at != (self.updates, self.seen):
            self.save()
        with self.away("checkpoint"):
            if self.checkpoints is not None:
                self.checkpoints.close()
        self.recorder.report_saved()
        where = f"update {self.updates} (epoch {self.seen / self.num_train:.2f} of {self.total / self.num_train:.2f})"
        if not self.takes_part:
            raise Preempted(f"SIGTERM came at {where}; this worker leaves the run, worker 0 saves it.")
        raise Preempted(f"SIGTERM came; {where} is saved, start again to go on.")

    def finish(self) -> dict[str, Any]:
        """The last evaluation, checkpoint and summary; collective."""
        if self.takes_part and self.measured.last_evaluation.get("updates") != self.updates:
            self.recorder.evaluation(self.evaluated())
        if self.saved_at != (self.updates, self.seen):
            self.save()
        with self.away("checkpoint"):  # the chief finishes writing, the others wait for it
            if self.checkpoints is not None:
                self.checkpoints.close()
            summary = self.summary()
            self.record_events()
        self.recorder.end(summary, is_chief=self.cluster.is_chief)
        if self.cluster.is_chief:
            self.profile.merge()
        return summary

    def summary(self) -> dict[str, Any]:
        """Of a finished run; collective."""
        own = own_numbers(self.state.arrays)
        if self.group.fate_sharing:
            timeout = self.config.cluster.compile_timeout_seconds
            per_worker: Sequence[Sequence[Any] | None] = self.group.gather("memory", own, timeout=timeout)
        else:
            per_worker = self.phases.strategy.report.gather(own)
        run = facts(self.config, self.cluster, self.task)
        run |= {"updates": self.updates, "examples_seen": self.seen}
        run |= self.examples.partition_summary()
        run |= {"stopped_early": self.measured.early_stopping.stopped}
        return run | self.recorder.summary(per_worker) | self.phases.summary(self.state)


class _Ended:
    """The state of a phase that has ended: how far it came, without its arrays."""

    def __init__(self, updates: int, examples_seen: int) -> None:
        self.updates, self.examples_seen = updates, examples_seen
        self.arrays: dict[str, Any] = {}
