"""A branch for each input: its blocks and sources, widths of each, what is refused, and a run that needs both."""

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

PAIR = {
    "visible": jax.ShapeDtypeStruct((3, 3, 2), jnp.float32),
    "radar": jax.ShapeDtypeStruct((3, 3, 1), jnp.float32),
}


def build(inputs=PAIR, **options):
    return models.build("branches", inputs=inputs, num_outputs=6, settings={"dropout": 0.1}, options=options)


def test_branches_meet_where_they_are_merged():
    graph = build(widths={"visible": 4, "radar": 2}, features=8)
    contract.check(graph, np.float32)
    assert not graph.is_chain and graph.sources_of["merge"] == ("visible_dense", "radar_dense")
    assert graph.shapes["visible_conv1"][0]["conv"]["kernel"].shape == (3, 3, 2, 4)
    assert graph.shapes["radar_conv2"][0]["conv"]["kernel"].shape == (3, 3, 2, 4)
    assert graph.shapes["merge"][0]["dense"]["kernel"].shape == (16, 8) and graph.activation_shapes["head"] == (6,)


def test_what_cannot_be_built():
    with pytest.raises(ValueError, match="several inputs, and there is 'visible' alone"):
        build({"visible": PAIR["visible"]})
    with pytest.raises(ValueError, match="must have each of the inputs visible, radar"):
        build(widths={"visible": 4})


@pytest.mark.long
def test_it_learns_what_neither_input_tells_alone(tmp_path):
    config = default_config()
    config.data.name, config.model.name = "synthetic_pair", "branches"
    config.data.options = ConfigDict({"num_train": 1500, "num_eval": 300})
    config.model.options = ConfigDict({"widths": 8, "features": 32})
    config.optim.name, config.optim.learning_rate = "adam", 0.002
    config.global_batch_size, config.num_epochs, config.eval_every_epochs = 50, 6.0, 6.0
    config.strategy.name = "single"
    summary = jaxdist.train_and_evaluate(config, str(tmp_path))
    assert summary["validation_accuracy"] > 0.75  # of spectra alone: 0.53 at most
