"""What a pipeline tells of itself: its rows while it trains, and the activations that it keeps."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from helpers.in_process import BATCH, build_pipeline
from helpers.reference import make_batches, make_task

from jaxdist.strategies.pipeline.placement import Place
from jaxdist.strategies.pipeline.report import PipelineReport
from jaxdist.strategies.pipeline.stage_worker import Step
from jaxdist.strategies.report import Wait


def test_waiting_for_other_processes_is_the_mean_of_the_stages_here():
    def step(waited):
        return Step({}, {}, {}, False, True, [(None, 1.0, 2.0)], {0: (1.0, 0)}, 0, waited)

    report = PipelineReport()
    report.plan = {"balance": [1, 1, 1]}
    report.places = [Place(0, stage, 0, stage) for stage in range(3)]
    report.note([step(1.0), step(3.0), step(None)])  # the last has neighbours in this process alone
    report.note([step(1.0), step(3.0), step(None)])
    assert report.waits() == {"network": Wait(4.0)} and report.waits() == {}
    report.note([step(None)] * 3)
    assert report.waits() == {}


@pytest.mark.long
def test_fewer_activations_are_kept_under_1f1b():
    task = make_task("densenet", np.float32)
    batch = make_batches(1, BATCH, np.float32)[0]
    kept = {}
    for schedule, remat in itertools.product(["gpipe", "1f1b"], [False, True]):
        options = {"num_microbatches": 8, "pipeline_schedule": schedule, "remat": remat, "balance": (4, 3)}
        pipeline = build_pipeline(task, devices=2, num_stages=2, **options)
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
    task = make_task("chain")
    batches = make_batches(3, BATCH)
    pipeline = build_pipeline(task, devices=2, num_stages=2, num_microbatches=8)
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
