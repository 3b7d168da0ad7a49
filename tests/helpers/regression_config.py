"""`tiny_config` for a number to be estimated from several inputs: what the multi-process tests of objectives train."""

from helpers import tiny_config
from ml_collections import ConfigDict


def get_config():
    config = tiny_config.get_config()
    config.data.name, config.model.name = "helpers.two_inputs:load", "helpers.two_inputs:build"
    config.objective.name, config.objective.loss = "regression", "huber"
    config.objective.metrics = ("mean_absolute_error", "sigma_nmad", "outliers_0.01")
    with config.unlocked():
        config.data.options = ConfigDict({"num_train": 240, "num_eval": 50, "weighted": True})
        config.objective.options = ConfigDict({"delta": 0.1})
    return config
