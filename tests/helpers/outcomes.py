"""What runs of real processes leave behind, and what it must equal."""

from __future__ import annotations

import functools
import json
import pathlib
import random
import signal

import numpy as np
import pytest
from helpers import tiny_config
from helpers.processes import Run, finish, rows, wait_for_checkpoint, wait_for_update
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


def assert_times_add_up(workdir, outside: float | None = None) -> dict:
    """The visible phases of a finished run make up its time, and what is hidden or waited for has its place; returns
    the summary.

    Args:
      outside: seconds from before the run to after it, by the caller's clock.
    """
    summary = json.loads((pathlib.Path(workdir) / "summary.json").read_text())
    elapsed, phases = summary["elapsed_seconds"], summary["phase_seconds"]
    assert sum(phases.values()) == pytest.approx(elapsed, rel=0.02), phases
    assert min(phases.values()) >= 0, phases
    if outside is not None:  # nothing counts twice, and no more is left out than the end of a process
        assert outside - 10.0 <= elapsed <= outside + 0.1
    assert min(phases[name] for name in ("startup", "read", "compile", "train")) > 0
    hidden = summary["hidden_seconds"]
    assert {"preprocess", "checkpoint"} <= hidden.keys() and min(hidden.values()) >= 0
    assert min(hidden[name] + phases[name] for name in ("preprocess", "checkpoint")) > 0  # slow machines hide nothing
    assert summary["wait_seconds"]["data"] <= phases["preprocess"] + 0.001
    waited = sum(seconds for name, seconds in summary["wait_seconds"].items() if name != "data")
    assert waited <= phases["train"] + 0.001
    last = json.loads((pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0.5 * elapsed <= last["time"] <= elapsed + 10.0  # rows count from the same moment
    return summary


def assert_resumes_exactly(folder, n: int, *, sigterm: bool = False, **settings) -> TrainState:
    """A run whose last process is killed, then started again, ends as one that nothing befell, to the bit.

    Args:
      sigterm: the second start is ended too, by SIGTERM to process 1 (of at least two): all processes save the same
        update and say so, and it is the third that ends as the whole run does.

    Returns:
      The state at the end; the whole run is in `folder` / 'whole'.
    """
    whole, parts = folder / "whole", folder / "parts"
    settings |= {"checkpoint__every_updates": 7, "num_epochs": 200.0}
    slowly = "delay@process=0,seconds=0.05"  # a second or two between what is waited for and the end of the run
    kill_after, until = random.randrange(7, 33), 40
    with Run(parts, n, fault=slowly, **settings) as run:
        wait_for_checkpoint(parts, 7)
        wait_for_update(parts, kill_after)
        run.processes[n - 1].kill()
        run.loses(n - 1, "kill")
    assert final_state(parts).updates >= 7
    if sigterm:
        with Run(parts, n, fault=slowly, **settings) as run:
            wait_for_update(parts, max(rows(parts, "train")) + 6)
            run.processes[1].send_signal(signal.SIGTERM)
            ended = run.wait()
        assert [e.code for e in ended] == [75] * n, [e.output[-1500:] for e in ended]
        saved = {int(e.output.split("SIGTERM came; update ")[1].split()[0]) for e in ended}
        assert saved == {final_state(parts).updates}
        until = saved.pop() + 5
    assert finish(parts, n, max_updates=until, **settings)["updates"] == until
    finish(whole, n, max_updates=until, **settings)
    a, b = final_state(whole), final_state(parts)
    assert a.updates == b.updates == until
    found, wanted = flatten(b.arrays()), flatten(a.arrays())
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert rows(whole, "eval") == rows(parts, "eval")
    for workdir in (whole, parts):
        assert_times_add_up(workdir)
    assert _untimed(whole) == _untimed(parts)
    return b


def _untimed(workdir) -> list[dict]:
    # Of times, or of all steps but the one that compiled.
    timed = ("bubble", "busy", "stage_ms", "stage_bytes_sent", "bytes_sent", "live_activation_bytes")
    return [{k: v for k, v in row.items() if k not in timed} for _, row in sorted(rows(workdir, "train").items())]
