"""The knobs of checkpoints."""

from jaxdist.knobs import Knob, above_zero, at_least_zero

KNOBS = (
    Knob("checkpoint.every_epochs", 1.0, "0 = only at the end", at_least_zero),
    Knob("checkpoint.every_updates", 0, "for trials", at_least_zero),
    Knob("checkpoint.keep", 3, "of the newest", above_zero),
)
