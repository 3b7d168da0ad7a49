"""Examples that are no images: spectra with their noise, and a number to be estimated; a model of three blocks."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdist.data import Dataset, Split
from jaxdist.models import BatchNorm, Dropout

BINS = 16


def load(*, num_train: int = 240, num_eval: int = 50, weighted: bool = False) -> Dataset:
    rng = np.random.default_rng(5)

    def split(n: int) -> Split:
        z = rng.uniform(0.0, 0.5, n)
        noise = rng.uniform(0.05, 0.2, (n, BINS))
        line = np.exp(-0.5 * ((np.arange(BINS) - 8 * (1 + z[:, None])) / 2.0) ** 2)
        spectrum = (line + noise * rng.normal(size=line.shape)).astype(np.float32)
        masks = rng.integers(3, size=(n, BINS)).astype(np.int32)  # integers, passed on as they are
        weights = rng.uniform(0.5, 2.0, n) if weighted else None
        return Split({"spectrum": spectrum, "noise": noise, "mask": masks}, z, weights=weights)

    return Dataset("two inputs", split(num_train), split(num_eval), scale={"mask": None})


class Join(nn.Module):
    """Of the three inputs one array [batch, bins, features]."""

    features: int

    @nn.compact
    def __call__(self, x, context):
        joined = jnp.stack([x["spectrum"], x["noise"], (x["mask"] > 0).astype(x["noise"].dtype)], axis=-1)
        return BatchNorm(relu=True, name="norm")(nn.Conv(self.features, (3,), name="conv")(joined), context)


class Hidden(nn.Module):
    features: int
    dropout: float

    @nn.compact
    def __call__(self, x, context):
        x = nn.relu(nn.Dense(self.features, name="dense")(x.reshape(x.shape[0], -1)))
        return Dropout(self.dropout, name="dropout")(x, context)


class Outputs(nn.Module):
    count: int

    @nn.compact
    def __call__(self, x, context):
        return nn.Dense(self.count, name="dense")(x)


def build(num_outputs: int, *, features: int = 4, dropout: float = 0.2) -> list[tuple[str, nn.Module]]:
    return [("join", Join(features)), ("hidden", Hidden(8, dropout)), ("head", Outputs(num_outputs))]


def partition_rules(**_: object) -> tuple[str, ...]:
    return ("^hidden/dense/kernel$ = -,model", "^hidden/dense/bias$ = model", "^head/dense/kernel$ = model,-")
