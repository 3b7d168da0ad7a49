"""The knobs of the optimizer."""

from jaxdist.knobs import Knob, above_zero, at_least_zero

KNOBS = (
    Knob("optim.name", "sgd", "the update rule", choices="jaxdist.optim.optimizers:OPTIMIZERS", dotted=True),
    Knob("optim.learning_rate", 0.1, "at the beginning", above_zero),
    Knob("optim.momentum", 0.9, "sgd", at_least_zero),
    Knob("optim.weight_decay", 0.0, "L2 penalty on kernels", at_least_zero),
    Knob("optim.schedule", "step", "of the learning rate", choices="jaxdist.optim.schedules:SCHEDULES", dotted=True),
    Knob("optim.drop_epochs", (), "step: the learning rate is multiplied by drop_factor at each"),
    Knob("optim.drop_factor", 0.1, "step", above_zero),
)
