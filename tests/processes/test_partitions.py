"""Data distributed over workers, over real processes: each trains on its own part alone, and the run is as exact, and
resumes as exactly, as on one stream.
"""

from __future__ import annotations

import collections

import pytest
from helpers import tiny_config
from helpers.outcomes import assert_resumes_exactly, final_state
from helpers.processes import Run, events, finish, long, rows, wait_for_update
from helpers.recording_data import build, taken
from helpers.reference import assert_same, train_reference

from jaxdist import data
from jaxdist.train import setup

PARTITION = "dirichlet(alpha=0.5)"
RECORDED = "tests/helpers/recorded_config.py"


def examples_of(workers: int, partition: str = PARTITION) -> tuple:
    """(examples of the tiny configuration over so many workers, its task)."""
    config = tiny_config.get_config()
    config.data.partition = partition
    examples = setup.load_examples(config, num_workers=workers)
    return examples, setup.make_task(config, examples)


def reference(updates: int, workers: int, partition: str = PARTITION):
    examples, task = examples_of(workers, partition)
    batches = [
        examples.loader.train_batch(examples.train, examples.stream, range(12 * k, 12 * (k + 1)))
        for k in range(updates)
    ]
    return train_reference(task, batches, replicas=workers)


@pytest.mark.parametrize(
    ("workers", "servers", "settings"),
    [(2, 0, {}), (2, 2, {"strategy__max_staleness": 0}), long(4, 0, {}), long(4, 1, {"strategy__max_staleness": 0}),
     long(2, 0, {"strategy__name": "model_parallel", "strategy__shard_params": "fsdp",
                 "strategy__sync_batch_norm": False})],
    ids=["allreduce", "servers", "four", "four and a server", "fsdp"],
)  # fmt: skip
def test_workers_equal_one_device_that_takes_their_parts(x64, tmp_path, workers, servers, settings):
    settings = settings | {"data__partition": PARTITION, "max_updates": 20}
    summary = finish(tmp_path, workers, servers=servers, **settings)
    assert_same(final_state(tmp_path), reference(20, workers), 1e-9)
    assert summary["partition"] == PARTITION and sum(summary["examples_per_worker"]) == 240
    examples, _ = examples_of(workers)
    assert summary["examples_per_worker"] == [len(part) for part in examples.partition.parts]
    last = rows(tmp_path, "train")[20 - 20 % 3]
    assert last["epoch"] == pytest.approx(last["examples_seen"] / (workers * max(summary["examples_per_worker"])))


def test_killed_and_resumed_is_bit_identical(x64, tmp_path):
    assert_resumes_exactly(tmp_path, 2, data__partition="shards(k=2)")
    with Run(tmp_path / "whole", 3, data__partition="shards(k=2)", num_epochs=200.0) as run:
        ended = run.wait()
    assert {e.code for e in ended} == {2}
    assert "goes on with as many workers and the same global_batch_size alone" in ended[0].error


@pytest.mark.parametrize(
    ("servers", "settings"), [(1, {}), long(0, {}), long(2, {"strategy__max_staleness": 2})], ids=["any", "sync", "2"]
)
def test_each_worker_takes_rows_of_its_part_alone_and_every_epoch_has_them_all(tmp_path, servers, settings):
    folder = tmp_path / "rows"
    folder.mkdir()
    settings = settings | {"data__options__folder": str(folder), "data__partition": "continuous(strictness=1.0)"}
    # Worker 1 is slow: without parts, worker 0 would take most examples.
    summary = finish(
        tmp_path / "run", 2, servers=servers, config=RECORDED, fault="delay@process=1,seconds=0.02", **settings
    )
    assert summary["examples_seen"] == 480
    assert taken(folder) == collections.Counter(dict.fromkeys(range(240), 2))
    labels = build(folder=str(folder)).train.target
    parts = data.partition("continuous(strictness=1.0)", labels, 2, seed=0, num_classes=10).parts
    by_process = [set(map(int, path.read_text().split())) for path in folder.glob("rows-*")]
    assert sorted(map(sorted, by_process)) == sorted(part.tolist() for part in parts)


@pytest.mark.long
def test_the_part_of_a_lost_worker_is_taken_over(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    settings = {"data__options__folder": str(folder), "data__partition": "iid", "strategy__lease_seconds": 2.0}
    with Run(tmp_path / "run", 2, servers=1, config=RECORDED, fault="delay@process=1,seconds=0.2", **settings) as run:
        wait_for_update(tmp_path / "run", 6)
        run.processes[1].kill()
        ended = run.wait()
    assert ended[0].code == 0, ended[0].output[-2000:]
    (lost,) = (event for event in events(tmp_path / "run") if event["event"] == "worker_lost")
    assert lost["worker"] == 1
    assert set(taken(folder)) == set(range(240)) and min(taken(folder).values()) >= 2


def test_where_processes_share_their_examples_it_is_refused(tmp_path):
    settings = {"strategy__name": "pipeline", "data__partition": "iid", "strategy__balance_by": "bytes"}
    with Run(tmp_path, 2, **settings) as run:
        ended = run.wait()
    assert {e.code for e in ended} == {2}
    assert "data.partition='iid' gives each worker data of its own" in ended[0].error
    assert "Use one of allreduce, parameter_server, model_parallel" in ended[0].error
