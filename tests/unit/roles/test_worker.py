"""The library's entry point, in this process: early stopping, a model and data of one's own, no TensorFlow."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import tiny_config
from helpers.processes import ROOT, rows

import jaxdist
from jaxdist.errors import UsageError


def tiny(**overrides):
    config = tiny_config.get_config()
    config.model.param_dtype = "float32"
    config.global_batch_size = 16
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return config


def test_a_run_writes_what_it_promises(tmp_path):
    summary = jaxdist.train_and_evaluate(tiny(num_epochs=3.0, data__holdout_examples=16), str(tmp_path))
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    expected = (
        "strategy num_workers num_servers num_params num_epochs updates examples_seen train_loss train_accuracy "
        "validation_loss validation_accuracy elapsed_seconds images_per_second phase_seconds peak_memory_bytes "
        "param_bytes_per_process"
    )
    assert set(expected.split()) <= set(summary)
    assert summary["updates"] == 3 * (240 - 16) // 16
    assert summary["phase_seconds"].keys() == {"read", "compile", "train", "evaluate", "checkpoint"}
    train_row = rows(tmp_path, "train")[summary["updates"]]
    assert {"updates", "examples_seen", "epoch", "loss", "accuracy", "learning_rate"} <= set(train_row)
    assert {"holdout_loss", "holdout_accuracy"} <= set(rows(tmp_path, "eval")[summary["updates"]])
    assert train_row["learning_rate"] == pytest.approx(0.005)
    assert list((tmp_path / "tensorboard").iterdir())
    assert (tmp_path / "config.json").exists()


def test_single_and_allreduce_write_the_same_metrics(tmp_path):
    made = {}
    for name in ("single", "allreduce"):
        config = tiny(num_epochs=1.0, strategy__name=name)
        if name == "allreduce":
            config.strategy.sync_batch_norm = True
        jaxdist.train_and_evaluate(config, str(tmp_path / name))
        made[name] = rows(tmp_path / name, "train")
    assert made["single"].keys() == made["allreduce"].keys()
    for update, row in made["single"].items():
        assert row["loss"] == pytest.approx(made["allreduce"][update]["loss"], rel=1e-3)


def test_early_stopping_ends_the_run(tmp_path):
    config = tiny(num_epochs=40.0, data__holdout_examples=32, early_stopping_patience=2, eval_every_epochs=0.5)
    config.optim.learning_rate = 1e-9  # the holdout loss hardly moves
    config.optim.momentum = 0.0
    summary = jaxdist.train_and_evaluate(config, str(tmp_path))
    assert summary["updates"] < 40 * 208 // 16
    assert jaxdist.train_and_evaluate(config, str(tmp_path))["updates"] == summary["updates"]  # and stays so
    assert any('"stopped_early"' in line for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_a_finished_run_started_again_trains_nothing(tmp_path):
    first = jaxdist.train_and_evaluate(tiny(max_updates=4), str(tmp_path))
    second = jaxdist.train_and_evaluate(tiny(max_updates=4), str(tmp_path))
    for key in ("updates", "validation_loss", "validation_accuracy", "train_loss"):
        assert first[key] == second[key]


def test_the_readmes_own_model_and_data(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.S | re.M)
    package, experiment = blocks[0], blocks[1]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "spectra.py").write_text(package)
    (tmp_path / "experiment.py").write_text(experiment)
    monkeypatch.syspath_prepend(str(tmp_path))
    from experiment import get_config

    summary = jaxdist.train_and_evaluate(get_config(), str(tmp_path / "run"))
    assert summary["validation_accuracy"] > 0.9


def test_a_function_of_ones_own_that_fits_nothing(tmp_path):
    config = tiny()
    config.model.name = "nowhere.nets:build"
    with pytest.raises(UsageError, match="cannot be imported"):
        jaxdist.train_and_evaluate(config, str(tmp_path))


def test_no_process_imports_tensorflow(tmp_path):
    code = (
        "import sys, tiny_config, jaxdist\n"
        "config = tiny_config.get_config(); config.max_updates = 1\n"
        f"jaxdist.train_and_evaluate(config, {str(tmp_path)!r})\n"
        "import tensorflow_datasets\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=env)


def test_canonical_leaves_are_made_one_block_at_a_time():
    from helpers.reference import make_task

    task = make_task("resnet", np.float32)
    made = []
    original = type(task.chain).init_block
    try:
        type(task.chain).init_block = lambda self, name, *rest: made.append(name) or original(self, name, *rest)
        state = task.init()
        assert made == []
        np.asarray(state.params["stem"]["conv"]["kernel"])
        assert made == ["stem"]
        made.clear()
        task.init().in_memory()
        assert sorted(made) == sorted(
            [n for n, (params, _) in task.chain.shapes.items() if params]
            + [n for n, (_, stats) in task.chain.shapes.items() if stats]
        )
    finally:
        type(task.chain).init_block = original
