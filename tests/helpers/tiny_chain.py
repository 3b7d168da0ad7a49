"""The model of the tests that are not about a model: what the families are made of, once each, and quick to compile.

    stem 3x3/2 norm relu -> middle 3x3 norm relu dropout -> last 3x3 norm relu -> head

Statistics, dropout and blocks that can be cut and divided, as DenseNet and ResNet have them, at a sixth of the time.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxdist.models import BatchNorm, Context, Dropout
from jaxdist.models.layers import Classifier, conv


class Layer(nn.Module):
    features: int
    strides: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = conv(self.features, 3, self.strides, name="conv")(x)
        x = BatchNorm(relu=True, name="norm")(x, context)
        return Dropout(self.dropout, name="dropout")(x, context)


def build(num_classes: int, *, features: int = 4, dropout: float = 0.2) -> list[tuple[str, nn.Module]]:
    return [
        ("stem", Layer(features, 2)),
        ("middle", Layer(features, 1, dropout)),
        ("last", Layer(features)),
        ("head", Classifier(num_classes)),
    ]


def partition_rules(**_: object) -> tuple[str, ...]:
    """The channels between `middle` and `last` divided, as the families divide those inside a block."""
    return (
        "^middle/conv/kernel$ = -,-,-,model",
        "^middle/norm/(scale|bias|mean|var)$ = model",
        "^last/conv/kernel$ = -,-,model,-",
    )
