"""The pipeline equals the single-device run, microbatch by microbatch, however it is cut and scheduled."""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest
from helpers.in_process import BATCH, PIPELINE, build_pipeline, run_pipeline
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError
from jaxdist.strategies.pipeline.placement import places


@pytest.mark.parametrize(
    ("stages", "microbatches", "schedule", "remat"),
    [(2, 4, "gpipe", False), (4, 8, "1f1b", True)]
    + [
        long(*sizes, schedule, remat)
        for sizes, schedule, remat in itertools.product(
            [(1, 1), (1, 8), (2, 1), (2, 4), (3, 2), (4, 1), (4, 8)], ["gpipe", "1f1b"], [False, True]
        )
        if (*sizes, schedule, remat) not in ((2, 4, "gpipe", False), (4, 8, "1f1b", True))
    ],
)
def test_equals_the_single_device_run(x64, stages, microbatches, schedule, remat):
    task = make_task("densenet")
    batches = make_batches(10, BATCH)
    options = {"num_stages": stages, "num_microbatches": microbatches, "pipeline_schedule": schedule, "remat": remat}
    expected = train_reference(task, batches, replicas=microbatches)
    assert_same(run_pipeline(task, batches, devices=stages, **options), expected, 1e-9)


@pytest.mark.parametrize(
    ("model", "schedule"),
    [("resnet_v2", "gpipe"), long("resnet_v2", "1f1b"), long("resnet", "gpipe"), long("resnet", "1f1b")],
)
def test_every_family(x64, model, schedule):
    task = make_task(model)
    batches = make_batches(10, BATCH)
    expected = train_reference(task, batches, replicas=4)
    assert_same(run_pipeline(task, batches, devices=2, num_stages=2, pipeline_schedule=schedule), expected, 1e-9)


@pytest.mark.parametrize("optimizer", [long("adam"), long("adadelta")])
def test_every_optimizer(x64, optimizer):
    task = make_task("resnet", optimizer=optimizer)
    batches = make_batches(4, BATCH)
    expected = train_reference(task, batches, replicas=4)
    assert_same(run_pipeline(task, batches, devices=2, num_stages=2), expected, 1e-9)


@pytest.mark.parametrize(("stages", "replicas", "devices"), [(2, 2, 4), long(1, 4, 4), long(4, 2, 8)])
def test_replicas_are_averaged(x64, stages, replicas, devices):
    task = make_task("densenet")
    batches = make_batches(5, BATCH)
    options = {"num_stages": stages, "replicas": replicas, "num_microbatches": 2}
    expected = train_reference(task, batches, replicas=2 * replicas)
    assert_same(run_pipeline(task, batches, devices=devices, **options), expected, 1e-9)


@pytest.mark.parametrize("model", ["densenet", long("resnet")])
def test_one_float32_update(model):
    task = make_task(model, np.float32)
    batches = make_batches(1, BATCH, np.float32)
    expected = train_reference(task, batches, replicas=4)
    assert_same(run_pipeline(task, batches, devices=3, num_stages=3), expected, 1e-5)


@functools.cache
def _reference():
    batches = make_batches(1, BATCH)
    return make_task("resnet"), batches, train_reference(make_task("resnet"), batches, replicas=2)


@pytest.mark.long
@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_balance(x64, data):
    task, batches, expected = _reference()
    blocks = len(task.chain.names)
    stages = data.draw(st.integers(1, blocks))
    places = sorted(data.draw(st.sets(st.integers(1, blocks - 1), min_size=stages - 1, max_size=stages - 1)))
    balance = tuple(j - i for i, j in itertools.pairwise([0, *places, blocks]))
    schedule = data.draw(st.sampled_from(["gpipe", "1f1b"]))
    options = {"balance": balance, "num_microbatches": 2, "pipeline_schedule": schedule}
    assert_same(run_pipeline(task, batches, devices=data.draw(st.integers(1, 8)), **options), expected, 1e-9)


@pytest.mark.long
def test_fewer_activations_are_kept_under_1f1b():
    task = make_task("densenet", np.float32)
    batch = make_batches(1, BATCH, np.float32)[0]
    kept = {}
    for schedule, remat in itertools.product(["gpipe", "1f1b"], [False, True]):
        pipeline = build_pipeline(
            task, devices=2, num_stages=2, num_microbatches=8, pipeline_schedule=schedule, remat=remat, balance=(4, 3)
        )
        state = pipeline.import_state(task.init())
        pipeline.train_step(state, pipeline.place(batch))
        kept[schedule, remat] = [slot["live_activation_bytes"] for slot in pipeline.report.summary()["timeline"]]
        predicted = pipeline.report.plan["predicted"]["kept_bytes_per_microbatch"]
        assert kept[schedule, remat] == pytest.approx(
            [n * size for n, size in zip([8, 8] if schedule == "gpipe" else [2, 1], predicted, strict=True)], rel=0.05
        )
        pipeline.close()
    for s in (0, 1):
        assert kept["1f1b", False][s] * 3 < kept["gpipe", False][s]
        assert kept["gpipe", True][s] * 3 < kept["gpipe", False][s]


def test_rows_and_evaluation(x64):
    task = make_task("densenet")
    batches = make_batches(3, BATCH)
    pipeline = build_pipeline(task, devices=2, num_stages=2)
    state = pipeline.import_state(task.init())
    for batch in batches:
        state, metrics = pipeline.train_step(state, pipeline.place(batch), stop=False)
    row = pipeline.report.row()
    assert 0 < row["bubble"] < 1 and len(row["stage_ms"]) == 2 and row["bytes_sent"] > 0
    assert pipeline.report.row() == {} and metrics["stop"] == 0
    _, metrics = pipeline.train_step(state, pipeline.place(batches[0]), stop=True)
    assert metrics["stop"] > 0
    arrays = pipeline.import_state(task.init())
    ones = {k: v for k, v in batches[0].items() if k != "position"} | {"mask": np.ones(BATCH)}
    late = [pipeline.eval_step(arrays, ones) for _ in range(3)]
    params, stats = (jax.tree.map(np.asarray, tree) for tree in (task.init().params, task.init().model_state))
    expected = jax.jit(task.evaluate)(params, stats, ones)
    for found in late:
        for name in expected:
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-9)
    pipeline.close()


def test_slots_are_dealt_out_in_order():
    assert [tuple(p) for p in places(2, 2, 4, 1)] == [(0, 0, 0, 0), (0, 1, 1, 0), (1, 0, 2, 0), (1, 1, 3, 0)]
    assert [p.process for p in places(4, 1, 2, 1)] == [0, 0, 1, 1]
    assert [(p.process, p.device) for p in places(2, 2, 1, 4)] == [(0, 0), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize(
    ("options", "processes", "words"),
    [
        ({"num_stages": 12}, 1, r"12 are more stages than the model has blocks \(7: stem to head\): at most 7"),
        ({"num_stages": 2, "balance": (3, 5)}, 1, r"2 entries, 3 \+ 5 = 8. For example \(3, 4\)"),
        ({"num_stages": 3, "balance": (3, 4)}, 1, r"2 entries, 3 \+ 4 = 7"),
        ({"num_stages": 2, "balance": (0, 7)}, 1, r"balance=\(0, 7\) does not fit"),
        ({"num_stages": 2, "num_microbatches": 5}, 2, r"16 is not divisible by 5 microbatches x 1 .*nearest: 15 or 20"),
        ({"num_stages": 2, "replicas": 3, "num_microbatches": 2}, 6, r"2 microbatches x 3 replica.*nearest: 12 or 18"),
        ({"num_stages": 2, "replicas": 1}, 3, r"2 stages x 1 replica\(s\) = 2 cannot be dealt out to 3 process"),
        ({"num_stages": 3, "replicas": 2}, 4, r"3 stages x 2 replica\(s\) = 6 cannot be dealt out to 4 process"),
        ({"memory_limit": 1e-6}, 2, r"Process 0, with stage 0, needs about .* GB \(parameters"),
        ({"memory_limit": 1e-6, "num_stages": 2}, 1, r"Process 0, with stages 0, 1, needs about"),
        ({"accumulate": 4}, 2, r"accumulate=4 is not for a pipeline.*num_microbatches"),
    ],
)
def test_what_cannot_be_cut_is_refused(options, processes, words):
    task = make_task("densenet", np.float32)
    with pytest.raises(UsageError, match=words):
        strategies.check(
            PIPELINE | options, task, global_batch_size=BATCH, num_processes=processes, num_devices=processes
        )


def test_a_whole_model_beyond_the_limit_is_refused():
    task = make_task("densenet", np.float32)
    limited = default_config().strategy
    limited.memory_limit = 1e-6
    with pytest.raises(UsageError, match=r"One process needs about .*memory_limit=1e-06 GB.*'pipeline' cuts"):
        strategies.check(limited, task, global_batch_size=BATCH, num_processes=1, num_devices=1)


def test_a_balance_by_time():
    task = make_task("densenet", np.float32)
    pipeline = build_pipeline(task, devices=2, num_stages=2, balance_by="time")
    pipeline.import_state(task.init())
    assert sum(pipeline.balance) == len(task.chain.names)
    predicted = pipeline.report.plan["predicted"]
    assert 0 < predicted["bubble"] < 1 and len(predicted["cut_bytes"]) == 1
    pipeline.close()
