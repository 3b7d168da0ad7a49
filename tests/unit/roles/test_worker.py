"""The library's entry point, in this process: early stopping, a model and data of one's own.

What holds `train/loop.py`, with the tests of resuming in `processes/test_data_parallel.py`.
"""

from __future__ import annotations

import json
import time

import pytest
from helpers import pages, tiny_config
from helpers.outcomes import assert_times_add_up
from helpers.processes import long, rows

import jaxdist
from jaxdist.errors import UsageError


def tiny(**overrides):
    config = tiny_config.get_config()
    config.model.param_dtype = "float32"
    config.global_batch_size = 16
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return config


@pytest.fixture(scope="module")
def outside() -> dict[str, float]:
    """Seconds of each of `runs`, by a clock outside."""
    return {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, outside):
    """{strategy: (run directory, summary)} of runs that must come to the same."""
    found = {}
    for name in ("single", "allreduce"):
        config = tiny(num_epochs=2.0, data__holdout_examples=16, strategy__name=name)
        if name == "allreduce":
            config.strategy.sync_batch_norm = True
        workdir = tmp_path_factory.mktemp(name)
        begin = time.monotonic()
        found[name] = workdir, jaxdist.train_and_evaluate(config, str(workdir))
        outside[name] = time.monotonic() - begin
    return found


def test_a_run_writes_what_it_promises(runs):
    workdir, summary = runs["allreduce"]
    assert summary == json.loads((workdir / "summary.json").read_text())
    expected = (
        "strategy num_workers num_servers num_params num_epochs updates examples_seen train_loss train_accuracy "
        "validation_loss validation_accuracy elapsed_seconds images_per_second phase_seconds peak_memory_bytes "
        "param_bytes_per_process"
    )
    assert set(expected.split()) <= set(summary)
    assert summary["updates"] == 2 * (240 - 16) // 16
    parts = "startup read preprocess compile train evaluate checkpoint other"
    assert summary["phase_seconds"].keys() == set(parts.split())
    train_row = rows(workdir, "train")[summary["updates"]]
    assert {"updates", "examples_seen", "epoch", "loss", "accuracy", "learning_rate"} <= set(train_row)
    assert {"holdout_loss", "holdout_accuracy"} <= set(rows(workdir, "eval")[summary["updates"]])
    assert train_row["learning_rate"] == pytest.approx(0.005)
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "config.json").exists()


def test_its_time_is_the_sum_of_its_phases(runs, outside):
    for name, (workdir, _) in runs.items():
        summary = assert_times_add_up(workdir, outside[name])
        assert summary["wait_seconds"].keys() == {"data"}  # what a sum over replicas waits for cannot be seen


def test_single_and_allreduce_write_the_same_metrics(runs):
    single, allreduce = (rows(workdir, "train") for workdir, _ in runs.values())
    assert single.keys() == allreduce.keys()
    for update, row in single.items():
        assert row["loss"] == pytest.approx(allreduce[update]["loss"], rel=1e-3)


def test_early_stopping_ends_the_run(tmp_path):
    config = tiny(num_epochs=40.0, data__holdout_examples=16, early_stopping_patience=2, eval_every_epochs=0.5)
    config.strategy.name = "single"
    config.optim.learning_rate = 1e-9  # the holdout loss hardly moves
    config.optim.momentum = 0.0
    summary = jaxdist.train_and_evaluate(config, str(tmp_path))
    assert summary["updates"] < 40 * 224 // 16
    assert jaxdist.train_and_evaluate(config, str(tmp_path))["updates"] == summary["updates"]  # and stays so
    assert any('"stopped_early"' in line for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("name", ["chain", long("densenet")])
def test_a_finished_run_started_again_trains_nothing(tmp_path, request, name):
    if name == "chain":
        workdir, first = request.getfixturevalue("runs")["single"]
        config = tiny(num_epochs=2.0, data__holdout_examples=16, strategy__name="single")
    else:
        workdir, config = tmp_path, tiny(max_updates=4, model__name=name, model__depth=10)
        first = jaxdist.train_and_evaluate(config, str(workdir))
    before = (workdir / "summary.json").read_text()
    second = jaxdist.train_and_evaluate(config, str(workdir))
    assert first == json.loads(before)
    for key in ("updates", "validation_loss", "validation_accuracy", "train_loss"):
        assert first[key] == second[key]


def test_the_readmes_own_model_and_data(tmp_path, monkeypatch):
    package, experiment = (block.text for block in pages.blocks("README.md") if block.language == "python")
    (tmp_path / "spectra.py").write_text(package)
    (tmp_path / "experiment.py").write_text(experiment)
    monkeypatch.syspath_prepend(str(tmp_path))
    from experiment import get_config

    summary = jaxdist.train_and_evaluate(get_config(), str(tmp_path / "run"))
    assert summary["validation_mean_absolute_error"] < 0.05


def test_a_function_of_ones_own_that_fits_nothing(tmp_path):
    config = tiny()
    config.model.name = "nowhere.nets:build"
    with pytest.raises(UsageError, match="cannot be imported"):
        jaxdist.train_and_evaluate(config, str(tmp_path))
