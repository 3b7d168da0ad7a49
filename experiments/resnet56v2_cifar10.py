"""ResNet-56 version 2 (pre-activation bottlenecks, L2 penalty) on CIFAR-10 with Adadelta, 25 epochs.

    TFDS_DATA_DIR=DATA python tools/launch.py --num_workers=2 -- \
        --config=experiments/resnet56v2_cifar10.py --workdir=DIR

Published for batches of 64, 128, 256 and 512. Not yet run at full length here.
"""

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.augment = True
    config.model.name = "resnet"
    config.model.depth = 56
    config.model.version = 2
    config.num_epochs = 25.0
    config.global_batch_size = 128
    config.optim.name = "adadelta"
    config.optim.learning_rate = 1.0
    config.optim.weight_decay = 2e-4  # Keras's l2(1e-4) has this gradient
    return config
