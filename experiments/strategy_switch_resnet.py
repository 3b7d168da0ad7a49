"""Strategy switch: synchronous, asynchronous and both in one run, ResNet on CIFAR-10.

    python tools/reproduce.py experiments/strategy_switch_resnet.py --out=DIR --num_workers=5       # the original size
    python tools/reproduce.py experiments/strategy_switch_resnet.py --out=DIR --num_workers=2 --scale=0.1

The thesis (depth 50, 5 workers of 8 cores, 180 epochs; validation accuracy and hours): synchronous 92.71 %, 7:38:25;
asynchronous 90.81 %, 6:36:24; switched at 25, 50 and 75 % of the epochs 91.70, 92.54, 92.29 %, 6:42:44, 6:57:05,
7:19:01.
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
    config.strategy.name = "switch"
    config.strategy.schedule = "allreduce:0.5,parameter_server"
    config.strategy.momentum_handover = "keep"  # as the results in experiments/results were measured
    return config


def comparison(scale, num_workers):
    """The runs: batches of 26 a worker; at `scale` below 1 depth 20, that part of the training images and 10 epochs
    with drops of the learning rate at 44 and 72 % of them."""
    from experiments.strategy_switch import every_strategy

    common = {"global_batch_size": 26 * num_workers}
    if scale < 1:
        common |= {"model.depth": 20, "data.train_examples": round(50000 * scale), "num_epochs": 10}
        common |= {"optim.drop_epochs": "(4.4,7.2)", "log_every_steps": 10, "eval_every_epochs": 2}
    return every_strategy(common, num_workers)
