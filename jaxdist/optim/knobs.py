"""The knobs of the optimizer."""

from jaxdist.knobs import Knob, above_zero, at_least_zero

KNOBS = (
    Knob("optim.name", "sgd", "The update rule.", choices="jaxdist.optim.optimizers:names", dotted=True),
    Knob("optim.options", {}, "Further arguments of the rule, as optax calls them."),
    Knob("optim.learning_rate", 0.1, "Learning rate at the beginning.", above_zero),
    Knob("optim.momentum", 0.9, "sgd: momentum.", at_least_zero),
    Knob("optim.weight_decay", 0.0, "Weight decay, of a rule that has one; else an L2 penalty.", at_least_zero),
    Knob("optim.decay_mask", "kernel", "What is decayed: kernel, all, or 'package.module:function' of a path."),
    Knob(
        "optim.clip_global_norm",
        0.0,
        "Scales a gradient down whose norm over the whole model is above it. 0: off.",
        at_least_zero,
    ),
    Knob(
        "optim.ema_decay",
        0.0,
        "Evaluates a moving average of the parameters, which keeps so much of itself in each global batch. 0: off.",
        lambda value: "" if 0 <= value < 1 else "at least 0 and below 1",
    ),
    Knob(
        "optim.schedule",
        "step",
        "Schedule of the learning rate.",
        choices="jaxdist.optim.schedules:SCHEDULES",
        dotted=True,
    ),
    Knob("optim.drop_epochs", (), "step: epochs at which the learning rate is multiplied by drop_factor."),
    Knob("optim.drop_factor", 0.1, "step: the factor.", above_zero),
    Knob(
        "optim.warmup_epochs",
        0.0,
        "Epochs in which the rate grows from 0, under any schedule; warmup_cosine needs some, one_cycle has its own.",
        at_least_zero,
    ),
    Knob(
        "optim.final_factor", 0.0, "cosine, warmup_cosine: the part of the rate that is left at the end.", at_least_zero
    ),
)
