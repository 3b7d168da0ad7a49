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
from functools import partial
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from jaxdist import checkpoint, compilation, data, strategies
from jaxdist import cluster as cluster_lib
from jaxdist import config as config_lib
from jaxdist.cluster import Cluster
from jaxdist.errors import PeerError, Preempted, UsageError
from jaxdist.experiment import (
    Examples,
    examples_fingerprint,
    load_examples,
    make_task,
    model_fingerprint,
    num_params,
    total_updates,
)
from jaxdist.faults import Faults
from jaxdist.metrics import Sums, Writer
from jaxdist.peers import Peers
from jaxdist.run_directory import hold_run_directory
from jaxdist.run_log import RunLog
from jaxdist.strategies import Strategy
from jaxdist.task import Leaf, Task, TrainState, flatten


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
    jax.config.update("jax_enable_x64", config.model.param_dtype == "float64")
    compilation.enable_cache(config.compilation_cache)
    with contextlib.ExitStack() as stack:
        # To the very end: a second SIGTERM while the state is being saved must not undo the first one's good work.
        stop_asked = stack.enter_context(_sigterm_sets_a_flag())
        peers = cluster_lib.connect(
            cluster,
            facts=config_lib.comparable(config),
            settings=config.cluster,
            collectives=strategies.needs_collectives(config.strategy.name),
        )
        try:
            with hold_run_directory(workdir, config) if cluster.is_chief else contextlib.nullcontext():
                summary = _train(config, workdir, cluster, peers, stop_asked)
        except Preempted:
            cluster_lib.disconnect(peers)
            raise
        except BaseException as e:
            if peers is not None:
                named = peers.diagnose(e) if isinstance(e, jax.errors.JaxRuntimeError) else None
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
    if peers is not None:
        peers.agree("data and model", {"data": examples_fingerprint(examples), "model": model_fingerprint(task)})
    strategies.check(
        config.strategy,
        global_batch_size=config.global_batch_size,
        num_processes=cluster.num_processes,
        num_devices=len(jax.devices()),
    )
    num_train, total = len(examples.train), total_updates(config, len(examples.train))
    strategy = strategies.build(
        config.strategy,
        task,
        global_batch_size=config.global_batch_size,
        process_id=cluster.process_id,
        num_processes=cluster.num_processes,
    )
    faults = Faults(cluster.process_id)
    with contextlib.ExitStack() as stack:
        stack.callback(strategy.close)
        checkpoints = None
        if strategy.is_chief:
            checkpoints = checkpoint.Checkpoints(
                workdir, keep=config.checkpoint.keep, before_commit=lambda: faults.at("checkpoint", -1)
            )
        restored, before = restore(checkpoints, task, peers)
        state = strategy.import_state(restored)
        del restored
        log = RunLog(num_train, config.early_stopping_patience, before, begin)
        log.timer.seconds["read"] += time.monotonic() - begin
        writer = Writer(workdir, strategy.is_chief, log.started)
        stack.callback(writer.close)
        updates, seen = strategy.progress(state)

        def here() -> dict[str, Any]:
            """Where the run is: the fields that every row begins with."""
            return {"updates": updates, "examples_seen": seen, "epoch": seen / num_train}

        if before is not None:
            writer.write("event", event="resumed", **here())
            logging.info("Resumed at update %d of %d.", updates, total)
            if log.early_stopping.stopped and updates < total:
                logging.info("It had stopped early, by early_stopping_patience; nothing is left to train.")
                total = updates

        def timed_phase(name: str) -> contextlib.ExitStack:
            phases = contextlib.ExitStack()
            phases.enter_context(log.timer.phase(name))
            if peers is not None:
                phases.enter_context(peers.phase(name))
            return phases

        def evaluate_now() -> float | None:
            """Writes the evaluation; returns the holdout's loss, if there is a holdout."""
            with timed_phase("evaluate"):
                reported = evaluate(strategy, state, examples.evaluation, examples, config)
                held = None
                if examples.holdout is not None:
                    held = evaluate(strategy, state, examples.holdout, examples, config)
            row = {"loss": reported.loss, "accuracy": reported.accuracy}
            if held is not None:
                row |= {"holdout_loss": held.loss, "holdout_accuracy": held.accuracy}
            log.last_evaluation = row | {"updates": updates}
            writer.write("eval", **here(), **row)
            logging.info(
                "epoch %.2f: validation loss %.4f, accuracy %.2f %%",
                seen / num_train,
                row["loss"],
                100 * row["accuracy"],
            )
            return None if held is None else held.loss

        def save_now() -> None:
            with timed_phase("checkpoint"):
                canonical = strategy.export_state(state)
                if checkpoints is not None:
                    what = here()  # of now, not of when the writing is done
                    checkpoints.save(canonical, log.to_json(), lambda: writer.write("event", event="saved", **what))

        def prepare(positions: range) -> Any:
            return strategy.place(examples.loader.train_batch(examples.train, examples.stream, positions))

        batches = data.prefetch(prepare, strategy.ranges(seen, total - updates), config.data.prefetch)
        stack.callback(batches.close)  # type: ignore[attr-defined]
        bar = stack.enter_context(_progress_bar(strategy.is_chief, total, updates))
        stop, saved, first = False, before is not None, True
        if updates < total:
            logging.info("Compiling the training step (%d parameters); the first run takes longest.", num_params(task))
        while updates < total and not stop:
            with timed_phase("compile" if first else "train"):
                asked = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - asked
                was = seen
                state, metrics = strategy.train_step(state, batch, stop_asked.said)
                updates, seen = strategy.progress(state)
                stop = log.add_step(metrics, was, seen, waited=waited, timed=not first)
                if first or updates == total:
                    stop = log.take_late() or stop
            first = False
            if peers is not None:
                peers.progress(updates)
            bar.update()
            faults.at("update", updates)

            def crossed(epochs: float) -> bool:
                span = epochs * num_train
                return bool(epochs) and int(seen / span) > int(was / span)  # noqa: B023 - called in this turn

            is_last = updates == total
            if updates % config.log_every_steps == 0 or is_last:
                with timed_phase("train"):
                    stop = log.take_late() or stop
                row = log.window_row() | {"learning_rate": task.learning_rate(was)}
                writer.write("train", **here(), **row)
                bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.3f}")
            saved = False
            if crossed(config.eval_every_epochs) or is_last:
                stop_log = log.take_late()
                held_loss = evaluate_now()
                if held_loss is not None and log.early_stopping.should_stop(held_loss) and not is_last:
                    logging.info(
                        "Stopping early: the holdout loss has not fallen for %d evaluations.",
                        config.early_stopping_patience,
                    )
                    writer.write("event", event="stopped_early", **here())
                    total = updates
                    is_last = True
                stop = stop or stop_log
            every = config.checkpoint.every_updates
            if crossed(config.checkpoint.every_epochs) or (every and updates % every == 0) or is_last:
                stop = log.take_late() or stop
                save_now()
                saved = True
        log.take_late()
        if stop and updates < total:
            if not saved:
                save_now()
            with timed_phase("checkpoint"):
                if checkpoints is not None:
                    checkpoints.close()
            raise Preempted(f"Stopped by SIGTERM after saving update {updates} of {total}; start again to go on.")
        if log.last_evaluation.get("updates") != updates:  # resumed between evaluations with nothing left to train
            evaluate_now()
        with timed_phase("checkpoint"):  # the chief finishes writing, the others wait for it
            if checkpoints is not None:
                checkpoints.close()
            summary = summarise(config, cluster, strategy, state, log, peers, task)
        writer.summarise(summary)
        return summary


def evaluate(strategy: Strategy, state: Any, split: data.Split, examples: Examples, config: ConfigDict) -> Sums:
    """Exact metrics over a split: the last batch is padded and masked. Collective where `eval_step` is."""
    multiple = strategy.eval_multiple
    batch_size = -(-(config.eval_batch_size or config.global_batch_size) // multiple) * multiple
    batches = examples.loader.eval_batches(split, batch_size, *strategy.eval_part)
    sums = Sums()
    late: list[dict[str, Any]] = []
    for batch in data.prefetch(lambda b: b, batches, config.data.prefetch):
        late.append(strategy.eval_step(state, batch))
        if len(late) > 2:
            sums.add(late.pop(0))
    for metrics in late:
        sums.add(metrics)
    return sums


def restore(
    checkpoints: checkpoint.Checkpoints | None, task: Task, peers: Peers | None
) -> tuple[Any, dict[str, Any] | None]:
    """(canonical state, stored progress): from the newest whole checkpoint, or initial with None. Collective.

    Raises:
      UsageError: the checkpoint is of another model.
    """
    found = checkpoints.restore() if checkpoints is not None else None
    facts = None
    if found is not None:
        facts = {
            "progress": found.progress,
            "leaves": {n: [str(x.dtype), list(x.shape)] for n, x in found.leaves.items()},
        }
        if peers is not None and peers.chief is not None:
            peers.chief.serve_leaves({n: partial(_bytes_of, x) for n, x in found.leaves.items()})
    if peers is not None:
        facts = peers.gather("the restored checkpoint", facts)[0]
    initial = task.init()
    if facts is None:
        return initial, None
    _check_same_leaves(facts["leaves"], initial)
    if found is not None:
        return found.state, found.progress
    assert peers is not None

    def fetched(name: str, dtype: str, shape: list[int]) -> Leaf:
        return Leaf(tuple(shape), np.dtype(dtype), lambda: np.frombuffer(peers.fetch(name), dtype).reshape(shape))

    leaves = {name: fetched(name, *what) for name, what in facts["leaves"].items()}
    return checkpoint.state_of(leaves, facts["progress"]), facts["progress"]


def _bytes_of(leaf: Leaf) -> bytes:
    return np.asarray(leaf).tobytes()


def _check_same_leaves(stored: dict[str, Any], initial: TrainState) -> None:

    expected = {n: [str(np.dtype(x.dtype)), list(x.shape)] for n, x in flatten(initial.arrays()).items()}
    if stored == expected:
        return
    differing = sorted(n for n in stored.keys() | expected.keys() if stored.get(n) != expected.get(n))
    first = differing[0]
    raise UsageError(
        f"The checkpoint in --workdir is of another model or optimizer: {len(differing)} arrays differ, the first is "
        f"{first!r} (stored: {stored.get(first)}, configured: {expected.get(first)}). Choose another --workdir."
    )


def summarise(
    config: ConfigDict, cluster: Cluster, strategy: Strategy, state: Any, log: RunLog, peers: Peers | None, task: Task
) -> dict[str, Any]:
    """The summary of a finished run; collective."""
    updates, seen = strategy.progress(state)
    params = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(getattr(state, "arrays", {}).get("params", {}))
        for shard in getattr(leaf, "addressable_shards", [])
    )
    own = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, params, compilation.counts()["compiled"]]
    per_worker = (
        peers.gather("memory", own, timeout=config.cluster.compile_timeout_seconds) if peers is not None else [own]
    )
    # A run ends up to one update before its last epoch does; a mere beginning of an epoch is not "the last epoch".
    last = log.epoch if 2 * log.epoch.count >= log.last_epoch.count else log.last_epoch
    return {
        "strategy": config.strategy.name,
        "num_workers": cluster.num_processes,
        "num_servers": len(cluster.server_addresses),
        "num_params": num_params(task),
        "num_epochs": config.num_epochs,
        "updates": updates,
        "examples_seen": seen,
        "train_loss": last.loss,
        "train_accuracy": last.accuracy,
        "validation_loss": log.last_evaluation["loss"],
        "validation_accuracy": log.last_evaluation["accuracy"],
        "elapsed_seconds": round(log.elapsed(), 3),
        "images_per_second": round(log.timed_examples / max(log.timer.seconds["train"], 1e-9), 2),
        "phase_seconds": {k: round(v, 3) for k, v in log.timer.seconds.items()},
        "peak_memory_bytes": [w[0] for w in per_worker],
        "param_bytes_per_process": [w[1] for w in per_worker],
        "programs_compiled": [w[2] for w in per_worker],
    }


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
    with tqdm.tqdm(total=total, initial=done, disable=not (enabled and sys.stderr.isatty()), unit="update") as bar:
        yield bar
