"""DenseNet-BC-22-12 on scikit-learn's handwritten digits: real data, embedded, offline, a minute on a laptop.

    python tools/launch.py --num_workers=2 -- --config=experiments/densenet_digits.py --workdir=/tmp/digits

Expected: above 95 % validation accuracy (98.89 % measured: experiments/results/accuracy.md).
"""

from jaxdist.config import default_config


def get_config():
    config = default_config()
    config.data.name = "digits"
    config.model.name = "densenet"
    config.model.depth = 22
    config.num_epochs = 12.0
    config.global_batch_size = 64
    config.eval_every_epochs = 2.0
    config.log_every_steps = 20
    config.optim.drop_epochs = (6, 9)
    return config
