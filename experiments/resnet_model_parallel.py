"""ResNet-50 on CIFAR-10 with its channels divided between two processes.

    python tools/explain_sharding.py --config=experiments/resnet_model_parallel.py --devices=2
    TFDS_DATA_DIR=DATA python tools/launch.py --num_workers=2 -- \
        --config=experiments/resnet_model_parallel.py --workdir=DIR

Four processes as a 2 x 2 mesh: --num_workers=4 and `--config.strategy.mesh=data:2,model:2`.
"""

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.augment = True
    config.model.name = "resnet"
    config.model.depth = 50
    config.num_epochs = 180.0
    config.global_batch_size = 128
    config.optim.drop_epochs = (80, 130)
    config.strategy.name = "model_parallel"
    config.strategy.mesh = "data:1,model:2"
    return config
