"""A small CNN on MNIST with Adadelta, 30 epochs; published for global batches of 96, 192, 384, 768 and 1536.

    TFDS_DATA_DIR=DATA python tools/launch.py --num_workers=3 -- --config=experiments/cnn_mnist.py --workdir=DIR

Expected: above 99 % validation accuracy. Not yet run at full length here.
"""

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.data.name = "mnist"
    config.model.name = "cnn"
    config.num_epochs = 30.0
    config.global_batch_size = 96
    config.optim.name = "adadelta"
    config.optim.learning_rate = 1.0
    return config
