"""A run with a strategy, an optimizer, a schedule, a model and a data set of somebody's own."""

from helpers.own import every_second, rules

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.optim.optimizers import OPTIMIZERS
from jaxdist.optim.schedules import SCHEDULES

strategies.register(every_second.SPEC)
OPTIMIZERS["clipped_momentum"] = rules.clipped_momentum
SCHEDULES["linear"] = rules.linear


def get_config():
    config = default_config()
    config.data.name = "helpers.own.stripes:build"
    config.model.name = "helpers.own.two_blocks:build"
    config.model.param_dtype = "float64"
    config.optim.name = "clipped_momentum"
    config.optim.schedule = "linear"
    config.strategy.name = "every_second"
    config.strategy.every = 2
    config.global_batch_size = 12
    config.num_epochs = 4.0
    config.log_every_steps = 2
    config.checkpoint.every_epochs = 0.375  # 36 examples, three steps: in the middle of an update
    config.cluster.timeout_seconds = 15.0
    config.cluster.connect_timeout_seconds = 60.0
    return config
