"""A DenseNet of 11 million parameters, too large for one process of 1 GB, in two stages that carry it.

    TFDS_DATA_DIR=DATA python tools/launch.py --num_workers=2 -- \
        --config=experiments/densenet_large_pipeline.py --workdir=DIR

With `--config.strategy.name=single` and one process it is refused, with the arithmetic.
"""

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.data.name = "fashion_mnist"
    config.model.name = "densenet"
    config.model.growth_rate = 96
    config.num_epochs = 1.0
    config.global_batch_size = 32
    config.strategy.name = "pipeline"
    config.strategy.num_stages = 2
    config.strategy.num_microbatches = 8
    config.strategy.pipeline_schedule = "1f1b"
    config.strategy.memory_limit = 1.0
    return config
