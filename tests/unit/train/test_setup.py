"""From a configuration to examples and task: how the data are cut, how long a run is, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config

from jaxdist import data
from jaxdist.errors import UsageError
from jaxdist.train import setup


def tiny(**overrides):
    config = tiny_config.get_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
    return config


def test_what_is_held_out_is_not_trained_on():
    config = tiny(data__train_examples=100, data__holdout_examples=30, data__eval_examples=20)
    found, whole = setup.load_examples(config), setup.load_examples(tiny())
    assert (len(whole.train), whole.holdout, len(whole.evaluation)) == (240, None, 50)
    assert (len(found.train), len(found.holdout), len(found.evaluation)) == (70, 30, 20)
    rows = np.arange(70)
    np.testing.assert_array_equal(found.train.take(rows)["image"], whole.train.take(rows)["image"])
    np.testing.assert_array_equal(found.holdout.take(rows[:30])["image"], whole.train.take(rows[:30] + 70)["image"])
    assert sorted(found.stream.rows(rows)) == list(rows)
    (batch,) = found.loader.eval_batches(found.train, 70, 0, 1)
    np.testing.assert_allclose(batch["inputs"]["image"].mean(0), 0.0, atol=1e-6)  # the mean is of what is trained on
    assert batch["inputs"]["image"].dtype == np.float64


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data__train_examples": 241}, "data.train_examples=241, but 'synthetic' has only 240"),
        ({"data__eval_examples": 51}, "data.eval_examples=51, but 'synthetic' has only 50"),
        ({"global_batch_size": 241}, r"more than the 240 training examples left \(240 - 0 held out\)"),
        ({"data__holdout_examples": 230}, r"more than the 10 training examples left \(240 - 230 held out\)"),
        ({"data__holdout_examples": 300}, r"more than the 0 training examples left"),
    ],
)
def test_data_that_are_too_few_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        setup.load_examples(tiny(**values))


def test_features_reach_the_source_and_classes_may_be_estimated_as_numbers():
    with pytest.raises(UsageError, match=r"data\.features"):  # 'synthetic' has none to choose from
        setup.load_examples(tiny(data__features=("image",)))
    config = tiny(objective__name="regression", objective__loss="squared")
    examples = setup.load_examples(config)
    task = setup.make_task(config, examples)
    assert task.objective.num_outputs(examples.train.target, examples.num_classes) == 1


def test_what_is_no_image_is_not_augmented():
    config = tiny(data__augment=True)
    config.data.options.shape = (8,)
    with pytest.raises(
        UsageError, match=r"flips and crops images \[h, w, c\] of one size; 'synthetic' has image \[8\]"
    ):
        setup.load_examples(config)


@pytest.fixture(scope="module")
def examples() -> setup.Examples:
    return setup.load_examples(tiny())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model__name": "helpers.nowhere:build"}, "The model cannot be built: .*helpers.nowhere"),
        ({"model__name": "densenet", "model__depth": 11}, "The model cannot be built: .*11"),
        ({"optim__schedule": "helpers.nowhere:rate"}, "The learning-rate schedule cannot be built: "),
        ({"optim__name": "helpers.nowhere:rule"}, "The update rule cannot be built: "),
    ],
)
def test_a_task_that_cannot_be_built_is_refused(examples, values, words):
    with pytest.raises(UsageError, match=words):
        setup.make_task(tiny(**values), examples)


def test_a_task_is_what_the_configuration_says(examples):
    task = setup.make_task(tiny(model__dtype="bfloat16", seed=5, optim__momentum=0.8), examples)
    assert (task.dtype, task.compute_dtype, task.seed) == (np.float64, jnp.bfloat16, 5)
    assert setup.make_task(tiny(), examples).compute_dtype == np.float64
    assert task.learning_rate(0) == 0.05 and task.learning_rate(360) == pytest.approx(0.005)  # 1.5 epochs of 240
    assert task.model.names == ("stem", "middle", "last", "head")
    assert setup.num_params(task) == 4 * 9 * (1 + 4 + 4) + 3 * 8 + (4 + 1) * 10


@pytest.mark.parametrize(
    ("values", "num_train", "whole", "until"),
    [
        ({"num_epochs": 2.0}, 240, 480, 480),
        ({"num_epochs": 2.0}, 250, 492, 492),  # 500 examples are 41.7 updates
        ({"num_epochs": 2.0, "max_updates": 7}, 240, 480, 84),
        ({"num_epochs": 2.0, "max_updates": 70}, 240, 480, 480),
        ({"num_epochs": 0.05}, 240, 12, 12),
    ],
)
def test_a_run_is_of_whole_updates(values, num_train, whole, until):
    config = tiny(**values)
    assert setup.run_examples(config, num_train) == whole
    assert setup.total_examples(config, num_train) == until


def test_a_run_of_no_update_is_refused():
    with pytest.raises(UsageError, match=r"num_epochs=0.04 of 240 examples are less than one update of .*=12"):
        setup.total_examples(tiny(num_epochs=0.04), 240)


def test_fingerprints_tell_data_and_models_apart(examples):
    task = setup.make_task(tiny(), examples)
    found = setup.fingerprints(examples, task)
    assert found == setup.fingerprints(setup.load_examples(tiny()), setup.make_task(tiny(seed=9), examples))
    assert found["data"].startswith("240 + 50 examples, ")
    other = setup.fingerprints(setup.load_examples(tiny(seed=9)), task)  # made-up data follow the seed
    assert other["data"] != found["data"] and other["model"] == found["model"]
    wider = tiny()
    with wider.unlocked():
        wider.model.options.features = 5
    assert setup.model_fingerprint(setup.make_task(wider, examples)) != found["model"]


def test_settings_that_mean_nothing_to_a_model_are_named(caplog, examples):
    config = tiny(model__name="resnet", model__depth=8, model__dropout=0.3)
    with caplog.at_level("WARNING"):
        setup.make_task(config, examples)
    assert "model.dropout=0.3 means nothing to model.name='resnet' and is ignored." in caplog.text
    assert "model.depth" not in caplog.text


def test_what_examples_are_read_with_is_closed_with_them_or_when_they_are_refused(monkeypatch):
    closed, decoded = [], []
    made = data.load("synthetic", options={"num_train": 48, "num_eval": 12, "shape": (8, 8, 1)})
    images = made.train.inputs["image"]
    read = data.Split(None, made.train.target, read_many=lambda rows: images[rows])
    one = dataclasses.replace(made, train=read, close=lambda: closed.append(""))
    monkeypatch.setattr(setup.data, "load", lambda *_, **__: one)

    @contextlib.contextmanager
    def decoding():
        decoded.append("")
        yield

    config = tiny_config.get_config()
    examples = setup.load_examples(config, decoding)
    assert decoded == [""] and closed == []  # its mean is that of images that were decoded for it
    examples.close()
    assert closed == [""]
    config.data.train_examples = 49
    with pytest.raises(UsageError, match=r"data\.train_examples=49"):
        setup.load_examples(config)
    assert closed == [""] * 2
