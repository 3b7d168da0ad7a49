"""The knobs of the optimizer."""

from jaxdist.knobs import Knob, above_zero, at_least_zero

KNOBS = (
    Knob("optim.name", "sgd", "The update rule.", choices="jaxdist.optim.optimizers:OPTIMIZERS", dotted=True),
    Knob("optim.learning_rate", 0.1, "Learning rate at the beginning.", above_zero),
    Knob("optim.momentum", 0.9, "sgd: momentum.", at_least_zero),
    Knob("optim.weight_decay", 0.0, "L2 penalty on kernels. Biases and BatchNorm parameters have none.", at_least_zero),
    Knob(
        "optim.schedule",
        "step",
        "Schedule of the learning rate.",
        choices="jaxdist.optim.schedules:SCHEDULES",
        dotted=True,
    ),
    Knob("optim.drop_epochs", (), "step: epochs at which the learning rate is multiplied by drop_factor."),
    Knob("optim.drop_factor", 0.1, "step: the factor.", above_zero),
)
