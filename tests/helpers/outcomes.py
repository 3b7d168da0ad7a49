"""What runs of real processes leave behind, and what it must equal."""

from __future__ import annotations

import functools
import random
import signal

import numpy as np
from helpers import tiny_config
from helpers.processes import Run, finish, rows, wait_for_update
from helpers.reference import train_reference

from jaxdist.checkpoint import checkpointer
from jaxdist.state import TrainState, flatten, state_of
from jaxdist.task import Task
from jaxdist.train import setup


def final_state(workdir) -> TrainState:
    found = checkpointer.Checkpointer(str(workdir), keep=1).restore()
    assert found is not None
    arrays = {n: np.asarray(leaf) for n, leaf in found.leaves.items()}
    return state_of(arrays, found.progress)


@functools.cache
def tiny_task(**model) -> tuple[Task, setup.Examples]:
    """Of runs of the tiny configuration."""
    config = tiny_config.get_config()
    config.model.update(model)
    examples = setup.load_examples(config)
    return setup.make_task(config, examples), examples


@functools.cache
def _batch(k: int, size: int, **model) -> dict[str, np.ndarray]:
    _, examples = tiny_task(**model)
    return examples.loader.train_batch(examples.train, examples.stream, range(k * size, (k + 1) * size))


def reference_state(updates: int, *, replicas: int, batch: int = 12, **model) -> TrainState:
    """What the tiny configuration, with this model, must have come to."""
    task, _ = tiny_task(**model)
    return train_reference(task, [_batch(k, batch, **model) for k in range(updates)], replicas=replicas)


def assert_resumes_exactly(folder, n: int, **settings) -> None:
    """A run whose last process is killed, then started again, ends as one that nothing befell, to the bit."""
    kill_at = random.randrange(9, 36)
    print("killed at", kill_at)
    whole, parts = folder / "whole", folder / "parts"
    settings |= {"checkpoint__every_updates": 7}
    finish(whole, n, **settings)
    with Run(parts, n, fault=f"kill@process={n - 1},update={kill_at}", **settings) as run:
        codes = [e.code for e in run.wait()]
    assert codes == [1] * (n - 1) + [-signal.SIGKILL]
    finish(parts, n, **settings)
    a, b = flatten(final_state(whole).arrays()), flatten(final_state(parts).arrays())
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert rows(whole, "eval") == rows(parts, "eval")
    assert _untimed(whole) == _untimed(parts)


def _untimed(workdir) -> list[dict]:
    # Of times, or of all steps but the one that compiled.
    timed = ("bubble", "stage_ms", "stage_bytes_sent", "bytes_sent", "live_activation_bytes")
    return [{k: v for k, v in row.items() if k not in timed} for _, row in sorted(rows(workdir, "train").items())]


def assert_sigterm_saves(folder, n: int, **settings) -> None:
    """SIGTERM to process 1 of at least two: all save the same update and say so, and the run goes on from it."""
    with Run(folder, n, num_epochs=200.0, **settings) as run:
        wait_for_update(folder, 6)
        run.processes[1].send_signal(signal.SIGTERM)
        ended = run.wait(60)
    assert [e.code for e in ended] == [75] * n, [e.output[-1500:] for e in ended]
    saved = {int(e.output.split("after saving update ")[1].split()[0]) for e in ended}
    assert saved == {final_state(folder).updates}
    settings.pop("fault", None)
    until = saved.pop() + 5
    assert finish(folder, n, num_epochs=200.0, max_updates=until, **settings)["updates"] == until
