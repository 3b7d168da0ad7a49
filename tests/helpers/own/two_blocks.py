"""A model, as somebody would add it: a function that returns named Flax blocks. Touches nothing."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from jaxdist.models import BatchNorm, Context


class Hidden(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Any, context: Context) -> Any:
        x = nn.Dense(self.features)(x.reshape(len(x), -1))
        return nn.relu(BatchNorm()(x, context))


class Head(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x: Any, context: Context) -> Any:
        return nn.Dense(self.num_classes)(x)


def build(num_classes: int, *, features: int = 16) -> list[tuple[str, nn.Module]]:
    return [("hidden", Hidden(features)), ("head", Head(num_classes))]
