"""DenseNet-BC-40-12 on Fashion-MNIST in two stages, each on a process of its own that holds its parameters alone.

    TFDS_DATA_DIR=DATA python tools/launch.py --num_workers=2 -- \
        --config=experiments/densenet_fmnist_pipeline.py --workdir=DIR
    python tools/pipeline_timeline.py DIR

The stages are cut where measured times balance; `--config.strategy.balance=6,16` says it by hand.
"""

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.data.name = "fashion_mnist"
    config.model.name = "densenet"
    config.model.dropout = 0.1
    config.num_epochs = 40.0
    config.global_batch_size = 64
    config.optim.drop_epochs = (20, 30)
    config.strategy.name = "pipeline"
    config.strategy.num_stages = 2
    config.strategy.num_microbatches = 8
    config.strategy.pipeline_schedule = "1f1b"
    return config
