"""The knobs of the model."""

from jaxdist.errors import UsageError
from jaxdist.knobs import Knob, Values

KNOBS = (
    Knob("model.name", "densenet", "The model family.", choices="jaxdist.models.families:FAMILIES", dotted=True),
    Knob("model.depth", 40, "Number of layers, as the papers count them."),
    Knob("model.version", 1, "resnet: 1 (the original blocks) or 2 (pre-activation bottlenecks)."),
    Knob("model.growth_rate", 12, "densenet: channels that each layer adds."),
    Knob("model.reduction", 0.5, "densenet: share of the channels that a transition keeps."),
    Knob("model.bottleneck", True, "densenet: puts a 1x1 convolution before each 3x3 convolution."),
    Knob("model.dropout", 0.0, "densenet: dropout rate."),
    Knob(
        "model.param_dtype", "float32", "Type of parameters and BatchNorm statistics.", choices=("float32", "float64")
    ),
    Knob("model.dtype", "", "Type of activations. '': param_dtype.", choices=("", "bfloat16")),
    Knob("model.options", {}, "Further arguments of the family, or all arguments of your own function."),
)


def check(values: Values) -> None:
    """Raises `UsageError` for dtypes that do not go together."""
    if values["model.dtype"] == "bfloat16" and values["model.param_dtype"] != "float32":
        raise UsageError(
            f"model.dtype='bfloat16' goes with model.param_dtype='float32', not {values['model.param_dtype']!r}."
        )
