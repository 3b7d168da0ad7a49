"""`tiny_config` on the data of `recording_data`."""

from helpers import tiny_config
from ml_collections import ConfigDict


def get_config():
    config = tiny_config.get_config()
    config.data.name = "helpers.recording_data:build"
    with config.unlocked():
        config.data.options = ConfigDict({"folder": "", "num_train": 240, "num_eval": 50, "most": 0})
    return config
