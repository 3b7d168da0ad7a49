"""The knobs of a run as a whole."""

from __future__ import annotations

from jaxdist.errors import UsageError
from jaxdist.knobs import Knob, Values, above_zero, at_least_zero

KNOBS = (
    Knob("seed", 0, "Seeds the initial parameters, the order of the data and dropout.", at_least_zero),
    Knob("num_epochs", 40.0, "Passes over the training set. May be a fraction.", above_zero),
    Knob(
        "max_updates",
        0,
        "Stops the run after so many updates, for tests and trials. 0: no limit. Schedules still follow num_epochs.",
        at_least_zero,
    ),
    Knob("global_batch_size", 128, "Examples in one update, over all workers.", above_zero),
    Knob("eval_every_epochs", 1.0, "Epochs between two evaluations.", above_zero),
    Knob("eval_batch_size", 0, "Examples in a batch of an evaluation. 0: global_batch_size.", at_least_zero),
    Knob("log_every_steps", 50, "Training steps between two train rows in metrics.jsonl.", above_zero),
    Knob(
        "health.nonfinite",
        "stop",
        "NaN or infinite numbers. stop: end the run with exit code 1. skip: leave such updates out. warn: go on.",
        choices=("stop", "skip", "warn"),
    ),
    Knob(
        "early_stopping_patience",
        0,
        "Stops the run after so many evaluations that did not improve the holdout's early_stopping_metric. 0: off.",
        at_least_zero,
    ),
    Knob(
        "early_stopping_metric",
        "loss",
        "What early stopping looks at: loss, or a metric of the objective.",
        lambda value: "" if isinstance(value, str) and value else "a metric's name",
    ),
)


def check(values: Values) -> None:
    """Raises `UsageError` for early stopping without examples to decide by."""
    if values["early_stopping_patience"] and not values["data.holdout_examples"]:
        raise UsageError(
            f"early_stopping_patience={values['early_stopping_patience']} decides by held-out training "
            "examples: set data.holdout_examples above 0 (the test set is only reported)."
        )
