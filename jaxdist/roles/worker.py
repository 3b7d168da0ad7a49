"""`--role=worker`: trains and evaluates one model under one strategy, or several, one after the other."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxdist import cluster as cluster_lib
from jaxdist import config as config_lib
from jaxdist import data
from jaxdist.checkpoint import disk
from jaxdist.checkpoint.run_directory import check_data, hold_run_directory
from jaxdist.cluster import Cluster
from jaxdist.cluster.process_group import ProcessGroup
from jaxdist.config.phases import schedule_of
from jaxdist.errors import ConnectionLost, Preempted, Terminated, ending
from jaxdist.ps.reservation import end_waiting_servers
from jaxdist.roles.profiles import profile_of
from jaxdist.runtime import devices
from jaxdist.runtime.stop_signal import StopSignal, sigterm_as_stop_signal
from jaxdist.train import callbacks as callbacks_lib
from jaxdist.train import phase_needs, phase_triggers
from jaxdist.train.callbacks import Callback
from jaxdist.train.loop import TrainingLoop
from jaxdist.train.metrics import PhaseTimer
from jaxdist.train.phases import Phases
from jaxdist.train.setup import (
    check_phases,
    choose_operations,
    fingerprints,
    load_examples,
    make_task,
    run_examples,
    set_up_compilation,
)


def train_and_evaluate(
    config: ConfigDict, workdir: str, cluster: Cluster | None = None, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Trains as `config` says, resuming from `workdir` where it holds checkpoints. Collective over the cluster.

    Args:
      callbacks: called at the moments of the run (`jaxdist.train.callbacks`), on this process.

    Returns:
      The summary (what the chief writes to `summary.json`).

    Raises:
      UsageError: configuration, data, run directory or cluster are not fit for training; nothing was trained.
      PeerError: another process failed or was lost.
      Preempted: SIGTERM came; the state was saved.
      Terminated: SIGTERM came while there was nothing to save.
      Exception: what a callback raised.
    """
    config_lib.validate(config)
    return run(config, os.path.expanduser(workdir), cluster or Cluster(), callbacks)


def run(
    config: ConfigDict,
    workdir: str,
    cluster: Cluster,
    callbacks: Sequence[Callback] = (),
    stop_signal: StopSignal | None = None,
    begin: float | None = None,
) -> dict[str, Any]:
    """`train_and_evaluate` with a configuration that is known to be valid.

    Args:
      stop_signal: where it is open already.
      begin: `time.monotonic()` at the run's time 0 on this process; default now.
    """
    timer = PhaseTimer(begin)
    callbacks_lib.check(callbacks)
    set_up_compilation(config)  # first: the other may begin JAX's back ends
    devices.check_settings()
    schedule = schedule_of(config.strategy)
    run = cluster_lib.identity(cluster, config.cluster.run_id, workdir)
    with contextlib.ExitStack() as stack:
        # To the very end: a second SIGTERM while the state is being saved must not undo the first one's good work.
        stop_signal = stop_signal or stack.enter_context(sigterm_as_stop_signal())
        stop_signal.end_at_once(_nothing_to_save(workdir))
        if cluster.is_chief:  # whatever happens: servers that no run has used, or will use, must not wait for one
            end_servers = functools.partial(end_waiting_servers, cluster.server_addresses, cluster.security, run)
            stop_signal.before_end(end_servers)
            stack.push(lambda _, e, __: end_servers(e))
        with timer.phase("read"):
            data.import_reader(config.data.name)
        cluster.check_secret()
        cluster.check_ports(config.cluster.port_range)
        if phase_needs.fate_sharing(schedule):
            group = cluster_lib.connect(
                cluster,
                run=run,
                signature=config_lib.comparable(config),
                settings=config.cluster,
                collectives=phase_needs.needs_collectives(schedule, config.strategy, cluster.num_processes),
                opened=lambda group: stop_signal.before_end(functools.partial(_fail, group)),
            )
        else:
            group = ProcessGroup.alone(cluster, config.cluster)
        with _failures_reach_the_others(group):
            with _held_run_directory(workdir, config, cluster):
                summary = _train(config, workdir, run, cluster, group, stop_signal, callbacks, timer)
        group.disconnect()
        return summary


def _held_run_directory(workdir: str, config: ConfigDict, cluster: Cluster) -> contextlib.AbstractContextManager[Any]:
    """On the chief, which alone reads and writes it."""
    if not cluster.is_chief:
        return contextlib.nullcontext()
    return hold_run_directory(workdir, config_lib.flatten(config))


@contextlib.contextmanager
def _failures_reach_the_others(group: ProcessGroup) -> Any:
    """What ends this process is reported to the others, and by its cause where that is another process."""
    try:
        yield
    except Preempted as e:
        if not group.fate_sharing and group.is_chief:
            group.fail(str(e), code=75)  # some may wait for what this process will not say
        group.disconnect()
        raise
    except BaseException as e:
        blocked = group.fate_sharing and isinstance(e, jax.errors.JaxRuntimeError | ConnectionLost)
        named = group.diagnose(e) if blocked else None
        if named is not None:
            raise named from e
        _fail(group, e)
        raise


def _fail(group: ProcessGroup, error: BaseException) -> None:
    """The others end as this process does."""
    code, text = ending(error)
    if code:
        group.fail(text, code)


def _nothing_to_save(workdir: str) -> Terminated:
    """What SIGTERM means before training."""
    if list(pathlib.Path(workdir).glob("checkpoints/*")):
        return Terminated("SIGTERM came before training went on; the checkpoints are as they were, start again.", 75)
    return Terminated("SIGTERM came before training began: there was nothing to save.")


def _train(
    config: ConfigDict,
    workdir: str,
    run: str,
    cluster: Cluster,
    group: ProcessGroup,
    stop_signal: StopSignal,
    callbacks: Sequence[Callback],
    timer: PhaseTimer,
) -> dict[str, Any]:
    found = devices.local()
    group.agree("devices", {"number of devices": len(found), "kind of devices": found[0].device_kind})
    with timer.phase("startup"):
        choose_operations(config)
    with timer.phase("read"):
        examples = load_examples(config, lambda: timer.phase("preprocess"), cluster.num_processes)
    task = make_task(config, examples)
    identity = fingerprints(examples, task)
    group.agree("data and model", identity)
    if cluster.is_chief:
        check_data(workdir, examples.digests | examples.parts_digest)
        disk.check(workdir, disk.checkpoint_bytes(task.init().arrays()), config.checkpoint.keep)
    schedule, num_train = schedule_of(config.strategy), examples.epoch_examples
    profile = profile_of(config, workdir, cluster, task, num_train)
    check_phases(
        config,
        task,
        num_processes=cluster.num_processes,
        num_servers=len(cluster.server_addresses),
        devices_here=len(found),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(profile.close)
        stack.callback(examples.close)
        phases = Phases(
            schedule,
            task,
            config.strategy,
            _context(config, cluster, group, identity | {"run": run}) | {"profile": profile.windows},
            group,
            run_examples=run_examples(config, num_train),
            epoch_examples=num_train,
            trigger=phase_triggers.build(
                config.strategy, num_train, task.learning_rate, run_examples(config, num_train), task.objective
            ),
        )
        stack.push(lambda kind, error, trace: phases.close(error))
        stop_signal.before_end(phases.close)
        loop = TrainingLoop(
            config, workdir, cluster, group, examples, task, phases, stop_signal, callbacks, profile, timer, stack
        )
        loop.train()
        return loop.finish()


def _context(config: ConfigDict, cluster: Cluster, group: ProcessGroup, identity: Mapping[str, str]) -> dict[str, Any]:
    """Where strategies are built, as `BuildContext` takes it."""
    return {
        "global_batch_size": config.global_batch_size,
        "group": group,
        "process_id": cluster.process_id,
        "num_processes": cluster.num_processes,
        "server_addresses": cluster.server_addresses,
        "security": cluster.security,
        "signature": cluster_lib.run_signature(config_lib.comparable(config)) | dict(identity),
        "timeouts": config.cluster,
        "data_parts": cluster.num_processes if config.data.partition else 0,
    }
