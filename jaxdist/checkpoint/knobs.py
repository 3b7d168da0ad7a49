"""The knobs of checkpoints."""

from jaxdist.knobs import Knob, above_zero, at_least_zero

KNOBS = (
    Knob("checkpoint.every_epochs", 1.0, "Epochs between two checkpoints. 0: only at the end.", at_least_zero),
    Knob(
        "checkpoint.every_updates", 0, "Updates between two checkpoints, for tests and trials. 0: off.", at_least_zero
    ),
    Knob("checkpoint.keep", 3, "How many of the newest checkpoints are kept.", above_zero),
)
