"""Models by the name of their family, and how many parameters they have."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxdist import models


def build(name: str, shape: tuple[int, ...], **settings: Any) -> models.Graph:
    return models.build(name, inputs=shape, num_outputs=10, settings=settings, options={})


def count(model: models.Graph) -> int:
    """Parameters, from shapes alone."""
    return sum(int(np.prod(x.shape)) for params, _ in model.shapes.values() for x in jax.tree.leaves(params))
