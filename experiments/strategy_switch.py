"""Strategy switch: synchronous, asynchronous and both in one run, DenseNet on Fashion-MNIST.

    python tools/reproduce.py experiments/strategy_switch.py --out=DIR --num_workers=5              # the original size
    python tools/reproduce.py experiments/strategy_switch.py --out=DIR --num_workers=2 --scale=0.1 --seeds=0,1,2
    JAXDIST_FAULT='slow@process=1,factor=3' python tools/reproduce.py ...      # with one worker of a third's pace

The thesis (5 workers of 8 cores, 40 epochs; validation accuracy and hours): synchronous 94.51 %, 1:59:30; asynchronous
93.99 %, 1:33:28; switched at 25, 50 and 75 % of the epochs 94.26, 94.48, 94.50 %, 1:42:13, 1:44:28, 1:53:03.
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
    config.strategy.name = "switch"
    config.strategy.schedule = "allreduce:0.5,parameter_server"
    config.strategy.momentum_handover = "keep"  # as the results in experiments/results were measured
    return config


def comparison(scale, num_workers):
    """The runs: batches of 26 a worker; at `scale` below 1 that part of the training images, 8 epochs with drops of the
    learning rate at half and three quarters of them, and an evaluation every other epoch."""
    return every_strategy(sized(scale, num_workers), num_workers)


def sized(scale, num_workers):
    """What all runs of that size have in common."""
    common = {"global_batch_size": 26 * num_workers}
    if scale < 1:
        common |= {"data.train_examples": round(60000 * scale), "num_epochs": 8, "optim.drop_epochs": "(4,6)"}
        common |= {"log_every_steps": 10, "eval_every_epochs": 2}
    return common


def every_strategy(common, num_workers):
    """The runs of the thesis's tables, the reverse switch and the rule."""
    common = common | {"strategy.schedule": ""}
    served = common | servers(num_workers)
    switched = served | {"strategy.name": "switch"}
    return {
        "allreduce": common | {"strategy.name": "allreduce"},
        "parameter_server": served | {"strategy.name": "parameter_server"},
        "switch_25": switched | {"strategy.schedule": "allreduce:0.25,parameter_server"},
        "switch_50": switched | {"strategy.schedule": "allreduce:0.5,parameter_server"},
        "switch_75": switched | {"strategy.schedule": "allreduce:0.75,parameter_server"},
        "reverse_50": switched | {"strategy.schedule": "parameter_server:0.5,allreduce"},
        "automatic": switched | {"strategy.schedule": "allreduce,parameter_server", "strategy.switch_when": "plateau"},
    }


def servers(num_workers):
    return {"num_servers": 2 if num_workers > 2 else 1}
