"""The run that the multi-process tests train: `tiny_chain` on made-up images, float64, 40 updates."""

from ml_collections import ConfigDict

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.update_from_flattened_dict(
        {
            "data.name": "synthetic",
            "model.name": "helpers.tiny_chain:build",
            "model.growth_rate": 4,  # where a test asks for a DenseNet
            "model.dropout": 0.2,
            "model.param_dtype": "float64",
            "global_batch_size": 12,
            "num_epochs": 2.0,
            "log_every_steps": 3,
            "optim.learning_rate": 0.05,
            "optim.drop_epochs": (1.5,),
            "cluster.timeout_seconds": 15.0,
            "cluster.connect_timeout_seconds": 60.0,
        }
    )
    with config.unlocked():
        config.data.options = ConfigDict({"num_train": 240, "num_eval": 50, "shape": (8, 8, 1)})
    return config
