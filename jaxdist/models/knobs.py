"""The knobs of the model."""

from jaxdist.errors import UsageError
from jaxdist.knobs import Knob, Values

KNOBS = (
    Knob("model.name", "densenet", "its family", choices="jaxdist.models.families:FAMILIES", dotted=True),
    Knob("model.depth", 40, "layers, as the papers count them"),
    Knob("model.version", 1, "resnet: 1 or 2 (pre-activation bottlenecks)"),
    Knob("model.growth_rate", 12, "densenet: channels that a layer adds"),
    Knob("model.reduction", 0.5, "densenet: channels that a transition keeps"),
    Knob("model.bottleneck", True, "densenet: 1x1 before 3x3 convolutions"),
    Knob("model.dropout", 0.0, "densenet: rate"),
    Knob("model.param_dtype", "float32", "of parameters and statistics", choices=("float32", "float64")),
    Knob("model.dtype", "", "of activations: '' = param_dtype", choices=("", "bfloat16")),
    Knob("model.options", {}, "further arguments of the family, or all those of a function of your own"),
)


def check(values: Values) -> None:
    """Raises `UsageError` for dtypes that do not go together."""
    if values["model.dtype"] == "bfloat16" and values["model.param_dtype"] != "float32":
        raise UsageError(
            f"model.dtype='bfloat16' goes with model.param_dtype='float32', not {values['model.param_dtype']!r}."
        )
