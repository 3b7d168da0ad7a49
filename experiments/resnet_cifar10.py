"""ResNet-50 (6n+2, version 1) on CIFAR-10: batch 128, 180 epochs, learning rate 0.1, drops at 80 and 130, augmented.

    TFDS_DATA_DIR=DATA python -m jaxdist.main --config=experiments/resnet_cifar10.py --workdir=DIR \
        --num_processes=5 --process_id=I --coordinator_address=HOST:PORT          # once per host

Expected: 92.71 % is what the thesis this follows reports for synchronous training (its depth "50" has 0.76 M
parameters). Not yet run at full length here.
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
    return config
