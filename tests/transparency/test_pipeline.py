"""The pipeline equals the single-device run, microbatch by microbatch, however it is cut and scheduled.

The tiny chain goes through stages, microbatches, schedules and replicas; each family is cut once.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.in_process import BATCH, run_pipeline
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DEFAULT = [(2, 8, "gpipe", False), (4, 8, "1f1b", True)]
SIZES = [(1, 1), (1, 8), (2, 1), (2, 4), (3, 2), (4, 1), (4, 8)]


@pytest.mark.parametrize(("stages", "microbatches", "schedule", "remat"), DEFAULT)
def test_equals_the_single_device_run(x64, stages, microbatches, schedule, remat):
    check("chain", 20, stages, microbatches, schedule, remat)  # the learning rate drops after 15 updates


def check(model, updates, stages, microbatches, schedule, remat):
    task, batches = make_task(model), make_batches(updates, BATCH)
    options = {"num_stages": stages, "num_microbatches": microbatches, "pipeline_schedule": schedule, "remat": remat}
    expected = train_reference(task, batches, replicas=microbatches)
    assert_same(run_pipeline(task, batches, devices=stages, **options), expected, 1e-9)


@pytest.mark.long
@pytest.mark.parametrize(
    ("stages", "microbatches", "schedule", "remat"),
    [
        (*sizes, schedule, (i % 2 == 0) == (schedule == "1f1b"))
        for (i, sizes), schedule in itertools.product(enumerate(SIZES), ["gpipe", "1f1b"])
        if (sizes, schedule) != ((4, 8), "1f1b")  # above
    ],
)
def test_every_cut_and_schedule(x64, stages, microbatches, schedule, remat):
    """Sizes, schedules and remat in pairs: each of one with each of another."""
    check("chain", 16, stages, microbatches, schedule, remat)


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "schedule", "remat"),
    [("densenet", "1f1b", True), ("resnet", "gpipe", False), ("resnet_v2", "1f1b", False)],
)
def test_every_family(x64, model, schedule, remat):
    check(model, 10, 2, 4, schedule, remat)


@pytest.mark.parametrize("optimizer", [long("adam"), long("adadelta")])
def test_every_optimizer(x64, optimizer):
    task, batches = make_task("chain", optimizer=optimizer), make_batches(4, BATCH)
    expected = train_reference(task, batches, replicas=4)
    assert_same(run_pipeline(task, batches, devices=2, num_stages=2), expected, 1e-9)


def test_replicas_are_averaged(x64):
    check_replicas(stages=2, replicas=2, microbatches=2, devices=4)


def check_replicas(*, stages, replicas, microbatches, devices):
    task, batches = make_task("chain"), make_batches(5, BATCH)
    options = {"num_stages": stages, "replicas": replicas, "num_microbatches": microbatches}
    expected = train_reference(task, batches, replicas=microbatches * replicas)
    assert_same(run_pipeline(task, batches, devices=devices, **options), expected, 1e-9)


@pytest.mark.long
@pytest.mark.parametrize(("stages", "replicas", "devices"), [(1, 4, 4), (4, 2, 8)])
def test_any_number_of_replicas(x64, stages, replicas, devices):
    check_replicas(stages=stages, replicas=replicas, microbatches=2, devices=devices)


def test_one_float32_update():
    task, batches = make_task("chain", np.float32), make_batches(1, BATCH, np.float32)
    expected = train_reference(task, batches, replicas=4)
    assert_same(run_pipeline(task, batches, devices=2, num_stages=2), expected, 1e-5)


@pytest.mark.long
@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_balance(x64, data):
    task, batches = make_task("chain"), make_batches(1, BATCH)
    expected = train_reference(task, batches, replicas=2)
    blocks = len(task.model.names)
    stages = data.draw(st.integers(1, blocks))
    places = sorted(data.draw(st.sets(st.integers(1, blocks - 1), min_size=stages - 1, max_size=stages - 1)))
    balance = tuple(j - i for i, j in itertools.pairwise([0, *places, blocks]))
    schedule = data.draw(st.sampled_from(["gpipe", "1f1b"]))
    options = {"balance": balance, "num_microbatches": 2, "pipeline_schedule": schedule}
    options["remat"] = data.draw(st.booleans())
    assert_same(run_pipeline(task, batches, devices=data.draw(st.integers(1, 8)), **options), expected, 1e-9)
