"""A task of two dense blocks, with statistics: for what needs a model, be it the smallest."""

from __future__ import annotations

import functools

import numpy as np
from helpers.reference import SHAPE

from jaxdist import models
from jaxdist.optim import optimizers
from jaxdist.task import Task


@functools.cache
def make_task() -> Task:
    """Of `helpers.reference.make_batches`, in float64."""
    name = "helpers.own.two_blocks:build"
    chain = models.build(name, input_shape=SHAPE, num_classes=10, settings={}, options={"features": 4})
    rule = optimizers.build("sgd", momentum=0.9, weight_decay=1e-4)
    return Task(chain, rule, lambda seen: 0.05, 3, np.dtype(np.float64))
