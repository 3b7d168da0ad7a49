"""The knobs of the objective. Imports no jax."""

from jaxdist.knobs import Knob

KNOBS = (
    Knob(
        "objective.name",
        "classification",
        "What is trained for: the loss, the metrics, what targets may be.",
        choices="jaxdist.task.objectives.registry:OBJECTIVES",
        dotted=True,
    ),
    Knob("objective.loss", "", "classification: cross_entropy. regression: squared, huber or absolute. '': the first."),
    Knob(
        "objective.metrics",
        (),
        "Metrics of evaluations besides the loss. (): accuracy, or mean_absolute_error.",
    ),
    Knob("objective.options", {}, "Further arguments of the objective, or all arguments of your own function."),
)
