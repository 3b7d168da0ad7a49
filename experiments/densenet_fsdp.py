"""DenseNet-BC-40-12 on Fashion-MNIST, its parameters, gradients and optimizer state in equal shares (ZeRO-3).

    python tools/explain_sharding.py --config=experiments/densenet_fsdp.py --devices=2
    TFDS_DATA_DIR=DATA python tools/launch.py --num_workers=2 -- --config=experiments/densenet_fsdp.py --workdir=DIR

`--config.strategy.shard_params=zero1` divides the optimizer's state alone, and `none` with
`--config.strategy.mesh=model:2` the channels of each layer.
"""

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.data.name = "fashion_mnist"
    config.model.name = "densenet"
    config.model.dropout = 0.1
    config.num_epochs = 40.0
    config.global_batch_size = 128
    config.optim.drop_epochs = (20, 30)
    config.strategy.name = "model_parallel"
    config.strategy.shard_params = "fsdp"
    return config
