"""What becomes of the momentum where an asynchronous phase begins: the four choices of strategy.momentum_handover.

    python tools/reproduce.py experiments/momentum_handover.py --out=DIR --num_workers=2 --scale=0.1 --seeds=0,1,2

DenseNet on Fashion-MNIST, switched in the middle, as experiments/strategy_switch.py has it.
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
    return config


def comparison(scale, num_workers):
    """The runs, sized as those of experiments/strategy_switch.py."""
    from experiments.strategy_switch import servers, sized

    common = sized(scale, num_workers) | servers(num_workers)
    return {how: common | {"strategy.momentum_handover": how} for how in ("keep", "zero", "scale", "ramp")}
