"""The network over spectra: shapes, inputs side by side, and a run that learns redshifts of made-up spectra."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import jaxdist
from jaxdist import models
from jaxdist.config import default_config
from jaxdist.models import contract

SPECTRUM = jax.ShapeDtypeStruct((1800, 1), jnp.float32)


def test_inputs_are_side_by_side():
    one, two = (
        models.build("cnn1d", inputs=inputs, num_outputs=1, settings={"dropout": 0.1}, options={"width": 4})
        for inputs in ({"spectrum": SPECTRUM}, {"spectrum": SPECTRUM, "noise": SPECTRUM})
    )
    for graph, channels in ((one, 1), (two, 2)):
        contract.check(graph, np.float32)
        assert graph.is_chain and graph.shapes["conv1"][0]["conv"]["kernel"].shape == (11, channels, 4)
        assert graph.activation_shapes["conv4"] == (25, 16) and graph.activation_shapes["head"] == (1,)
    with pytest.raises(ValueError, match=r"takes examples \[bins, channels\], not \[8, 8, 1\]"):
        contract.check(models.build("cnn1d", inputs=(8, 8, 1), num_outputs=1, settings={}, options={}), np.float32)


@pytest.mark.long
def test_it_learns_redshifts_of_made_up_spectra(tmp_path):
    config = default_config()
    config.data.name, config.model.name = "redshift", "cnn1d"
    config.data.options = ConfigDict({"templates": "analytic", "num_train": 1200, "num_eval": 200})
    config.model.options = ConfigDict({"width": 8})
    config.objective.name, config.objective.loss = "regression", "huber"
    config.objective.metrics = ("mean_absolute_error", "sigma_nmad")
    config.objective.options = ConfigDict({"delta": 0.02})
    config.optim.name, config.optim.learning_rate = "adam", 0.002
    config.global_batch_size, config.num_epochs, config.eval_every_epochs = 40, 8.0, 8.0
    config.strategy.name = "single"
    summary = jaxdist.train_and_evaluate(config, str(tmp_path))
    assert summary["validation_sigma_nmad"] < 0.05  # of guessing the middle: 0.19
