"""What is refused by real processes, in one clear sentence, with exit code 2, before training.

Values, flags and batches are tested in `unit/config/test_validate.py`, `unit/cluster/test_detect.py` and
`unit/strategies/`, a command that cannot be read in `unit/test_main.py` and `test_main.py`.
"""

from __future__ import annotations

import contextlib
import time

import pytest
from free_ports import free_port
from helpers.processes import Ended, Run, main_command, start, wait_for_checkpoint


def launch(workdir, *ids: int, num_processes: int = 1, address: str = "", **overrides) -> Run:
    """The processes of those ids, which need not be all; keys in `overrides` with a value for each are lists."""
    run = Run(workdir, 0)
    devices = overrides.pop("devices", [1] * len(ids))
    flags = []
    if num_processes > 1:
        flags = [f"--num_processes={num_processes}", f"--coordinator_address={address or f'127.0.0.1:{free_port()}'}"]
    for k, i in enumerate(ids):
        values = {key: value[k] if isinstance(value, list) else value for key, value in overrides.items()}
        own = [*flags, f"--process_id={i}"] if num_processes > 1 else []
        env = {"JAX_NUM_CPU_DEVICES": str(devices[k])}
        run.processes.append(start(main_command(workdir, *own, **values), env))
    return run


PIPELINE = {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"}
REFUSED = {
    "more workers than examples": ("more than the 8 training examples", (0,), {"data__train_examples": 8}),
    "missing data": ("prepare_data.py mnist", (0,), {"data__name": "mnist", "data__data_dir": "/nowhere/empty"}),
    "a batch that does not divide": (
        "global_batch_size=13 is not divisible by the 2 devices",
        (0, 1),
        {"global_batch_size": 13, "num_processes": 2},
    ),
    "processes that differ": (
        "seed is 0 on process 0 but 1 on process 1",
        (0, 1),
        {"num_processes": 2, "seed": [0, 1]},
    ),
    "unequal devices": (
        "number of devices is 2 on process 0 but 1 on process 1",
        (0, 1),
        {"num_processes": 2, "devices": [2, 1]},
    ),
    "labels from one": (
        "they seem to begin at 1: subtract 1",
        (0, 1),
        {"num_processes": 2, "data__name": "helpers.faulty_data:labels_from_one"},
    ),
    "an infinite pixel, to a pipeline": (
        "have inf at [2, 3, 0] of example 7",
        (0, 1),
        {"num_processes": 2, "data__name": "helpers.faulty_data:infinite_evaluation_pixel"} | PIPELINE,
    ),
    "an ignored label, to one process": (
        "1 of 240 are not: number 5 is -100",
        (0,),
        {"data__name": "helpers.faulty_data:ignored_labels", "strategy__name": "single"},
    ),
    "metrics at another host's address": (  # one for documentation
        "monitor.prometheus_port=9100: worker-0 cannot serve its metrics at 192.0.2.1:9100",
        (0,),
        {"monitor__prometheus_port": 9100, "monitor__prometheus_address": "192.0.2.1"},
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> dict[str, tuple[list[Ended], list]]:
    """All of `REFUSED`, started at once: how the processes ended, and metrics that they have left."""
    folder = tmp_path_factory.mktemp("refused")
    with contextlib.ExitStack() as stack:
        runs = {
            name: stack.enter_context(launch(folder / str(k), *ids, **overrides))
            for k, (name, (_, ids, overrides)) in enumerate(REFUSED.items())
        }
        ended = {name: run.wait() for name, run in runs.items()}
    return {name: (each, list((folder / str(k)).glob("metrics.jsonl"))) for k, (name, each) in enumerate(ended.items())}


@pytest.mark.parametrize("name", REFUSED)
def test_every_process_refuses_before_training(refused, name):
    ended, metrics = refused[name]
    for e in ended:
        assert e.code == 2, e.output[-2000:]
        assert "Traceback" not in e.output
        assert REFUSED[name][0] in e.error
    assert not metrics


def test_a_process_that_nobody_meets_gives_up(tmp_path):
    """Process 1 whose coordinator is not there, and process 0 to which nobody comes."""
    begin, address = time.monotonic(), f"127.0.0.1:{free_port()}"
    flags = {"num_processes": 2, "cluster__connect_timeout_seconds": 3.0}
    with launch(tmp_path / "1", 1, address=address, **flags) as one, launch(tmp_path / "0", 0, **flags) as zero:
        (unreachable,), (alone,) = one.wait(40), zero.wait(40)
    assert unreachable.code == 2 and address in unreachable.error, unreachable.output
    assert alone.code == 2 and "process 1 of 2 did not come" in alone.error, alone.output
    assert time.monotonic() - begin < 30


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with Run(tmp_path / "file" / "run", 1) as run:
        ended = run.wait(60)[0]
    assert ended.code == 2 and "cannot be written" in ended.error


def test_native_kernels_that_cannot_be_built(tmp_path):
    """Asked for, they are missed before training; else the log says so, and the run goes on."""
    (tmp_path / "file").write_text("")
    nowhere = {"JAXDIST_NATIVE_DIR": str(tmp_path / "file" / "native")}
    with (
        Run(tmp_path / "asked", 1, ops__backend="native", model__param_dtype="float32", env=nowhere) as asked,
        Run(tmp_path / "auto", 1, max_updates=2, model__param_dtype="float32", env=nowhere) as auto,
    ):
        (refused,), (ended,) = asked.wait(60), auto.wait(60)
    assert refused.code == 2 and "ops.backend=native: this process has no native kernels" in refused.error
    assert "$JAXDIST_NATIVE_DIR names another" in refused.error and "Traceback" not in refused.output
    assert ended.code == 0 and "there are no native kernels" in ended.output, ended.output[-2000:]


def test_a_workdir_in_use_and_one_of_another_model(tmp_path):
    with Run(tmp_path, 1, num_epochs=5000.0, checkpoint__every_updates=5) as first:
        wait_for_checkpoint(tmp_path, 5)
        with Run(tmp_path, 1, num_epochs=5000.0) as second:
            ended = second.wait(60)[0]
        assert first.processes[0].poll() is None
    assert ended.code == 2 and "in use by a run that is still going" in ended.error, ended.output
    (tmp_path / "metrics.jsonl").unlink()
    with Run(tmp_path, 1, model__growth_rate=5) as another:
        ended = another.wait(60)[0]
    assert ended.code == 2 and "model.growth_rate is 4 there and 5 here" in ended.error, ended.output
    assert "Traceback" not in ended.output and not (tmp_path / "metrics.jsonl").exists()


def test_data_that_cannot_be_trained_on_end_servers_and_workers(tmp_path):
    with Run(tmp_path, 2, servers=1, servers_first=True, data__name="helpers.faulty_data:one_hot_labels") as run:
        ended = run.wait(60)
    assert [e.code for e in ended] == [2, 2, 2], [e.output[-1000:] for e in ended]
    assert "use labels.argmax(axis=1)" in ended[0].error and "use labels.argmax(axis=1)" in ended[2].error
