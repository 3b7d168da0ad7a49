"""Three dense layers and a chain of optimizers with states of all kinds: for tests of what becomes of an optimizer."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers.reference import SHAPE, make_task

from jaxdist import models
from jaxdist.optim.optimizers import Optimizer


def kernels(tree):
    """True for what is called a kernel."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", tree)


MASKED = optax.masked(optax.trace(0.9), kernels)
STATEFUL = optax.chain(optax.trace(0.9), optax.scale_by_rms(), optax.scale_by_schedule(lambda n: 1.0), MASKED)


class Layer(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, context):
        return jnp.tanh(nn.Dense(self.features, name="dense", param_dtype=x.dtype)(x.reshape(len(x), -1)))


def three_layers(rule: optax.GradientTransformation, dtype=np.float64):
    blocks = (("stem", Layer(6)), ("middle", Layer(6)), ("head", Layer(10)))
    return dataclasses.replace(with_rule(rule, dtype), model=models.Graph(blocks, SHAPE))


def with_rule(rule: optax.GradientTransformation, dtype=np.float64, model: str = "chain"):
    """A model's task with another optimizer, called 'mine'."""
    return dataclasses.replace(make_task(model, dtype), optimizer=Optimizer(rule, 1e-4, "mine"))
