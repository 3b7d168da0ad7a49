"""A CNN of 30 million parameters, most of them in one layer: refused to one process of 0.6 GB, carried by two.

    TFDS_DATA_DIR=DATA python tools/launch.py --num_workers=2 -- \
        --config=experiments/cnn_large_model_parallel.py --workdir=DIR

With `--config.strategy.name=single` and one process it is refused, with the arithmetic; fsdp would not help, since it
gathers a whole layer at a time.
"""

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.data.name = "mnist"
    config.model.name = "cnn"
    config.model.options = {"width": 160}
    config.num_epochs = 1.0
    config.global_batch_size = 32
    config.strategy.name = "model_parallel"
    config.strategy.mesh = "model:2"
    config.strategy.memory_limit = 0.6
    return config
