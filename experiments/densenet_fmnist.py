"""DenseNet-BC-40-12 on Fashion-MNIST (mission's table): batch 128, 40 epochs, learning rate 0.1, drops at 20 and 30.

TFDS_DATA_DIR=... python tools/launch.py --num_workers=2 -- --config=experiments/densenet_fmnist.py --workdir=DIR
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
    return config
