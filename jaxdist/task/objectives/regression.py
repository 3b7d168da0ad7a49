"""Numbers: squared, Huber or absolute errors, and metrics of them, those of redshifts among them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdist.task.objectives.objective import Metric, Objective, Sums, mean_of

LOSSES = ("squared", "huber", "absolute")
OUTLIERS = "outliers_"  # and the threshold


@dataclasses.dataclass(frozen=True)
class Regression(Objective):
    """One or several numbers for an example: targets [n] or [n, outputs], outputs [n, outputs].

    Several are averaged over in the loss and the metrics.

    Args:
      loss: 'squared' (error times error), 'huber' or 'absolute'.
      names: of the metrics; (): mean_absolute_error.
      delta: huber: beyond it the loss grows linearly (Huber 1964).
      span, bins: sigma_nmad is taken from a histogram of (prediction - target) / (1 + target) with `bins` bins from
        -span to span.
    """

    loss: str = "squared"
    names: tuple[str, ...] = ()
    delta: float = 1.0
    span: float = 1.0
    bins: int = 20_000

    def __post_init__(self) -> None:
        for name in ("delta", "span"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0 and finite")
        if not 2 <= self.bins <= 1_000_000:
            raise ValueError(f"bins={self.bins} must be 2 to 1000000")

    @functools.cached_property
    def metrics(self) -> Sequence[Metric]:  # type: ignore[override]
        return [self._metric(name) for name in self.names or ("mean_absolute_error",)]

    def _metric(self, name: str) -> Metric:
        if name.startswith(OUTLIERS):
            return _outliers(name, float(name.removeprefix(OUTLIERS)))
        return METRICS[name](self)

    def num_outputs(self, target: np.ndarray, num_classes: int) -> int:
        return int(np.prod(target.shape[1:], dtype=int)) or 1

    def output_shape(self, target: np.ndarray, num_classes: int) -> tuple[int, ...] | None:
        return target.shape[1:] or (1,)

    def losses(self, outputs: jax.Array, target: jax.Array) -> jax.Array:
        error = _error(outputs, target)
        if self.loss == "squared":
            each = jnp.square(error)
        elif self.loss == "absolute":
            each = jnp.abs(error)
        else:
            each = optax.huber_loss(error, delta=self.delta)
        return jnp.mean(each, axis=1)


def _error(outputs: jax.Array, target: jax.Array) -> jax.Array:
    """[b, outputs]."""
    return outputs - target.reshape(outputs.shape).astype(outputs.dtype)


def _deviation(outputs: jax.Array, target: jax.Array) -> jax.Array:
    """(prediction - target) / (1 + target), [b, outputs]: what the errors of redshifts are counted in."""
    return _error(outputs, target) / (1 + target.reshape(outputs.shape).astype(outputs.dtype))


def _mean(
    name: str,
    of: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    total: str = "",
    better: bool | None = None,
    training: bool = False,
    root: bool = False,
) -> Metric:
    """The mean over examples and outputs of a function of (outputs, target), from the sum `total`; `root`: its square
    root."""
    total = total or f"{name}_sum"

    def sums(outputs: jax.Array, target: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
        return {total: jnp.sum(jnp.mean(of(outputs, target).astype(counts.dtype), axis=1) * counts)}

    mean = mean_of(total)
    value = (lambda found: math.sqrt(mean(found))) if root else mean
    return Metric(name, (total,), sums, value, better, training=training)


def _outliers(name: str, threshold: float) -> Metric:
    return _mean(name, lambda o, t: jnp.abs(_deviation(o, t)) > threshold, total=name, better=False)


def _sigma_nmad(objective: Regression) -> Metric:
    def sums(outputs: jax.Array, target: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
        deviation = _deviation(outputs, target)
        place = jnp.floor((deviation + objective.span) * (objective.bins / (2 * objective.span)))
        # One bin on each side for what lies beyond; what is not a number lies beyond, too.
        place = (
            jnp.where(jnp.isfinite(place), jnp.clip(place, -1, objective.bins), objective.bins).astype(jnp.int32) + 1
        )
        each = jnp.broadcast_to(counts[:, None], deviation.shape)
        return {"deviations": jnp.zeros(objective.bins + 2, counts.dtype).at[place].add(each)}

    def value(found: Sums) -> float:
        return sigma_nmad(np.asarray(found["deviations"]), objective.span)

    return Metric("sigma_nmad", ("deviations",), sums, value, higher_is_better=False)


def sigma_nmad(histogram: np.ndarray, span: float) -> float:
    """1.4826 median |d - median d|, from counts of d in equal bins from -span to span, and one beyond each end.

    Exact to 1.5 bins. NaN where a median lies beyond.
    """
    counts = np.asarray(histogram, np.float64)
    bins = len(counts) - 2
    width = 2 * span / bins
    centres = np.concatenate([[-np.inf], -span + width * (np.arange(bins) + 0.5), [np.inf]])
    middle = _median(centres, counts)
    if not math.isfinite(middle):
        return math.nan
    distance = np.abs(centres - middle)
    order = np.argsort(distance, kind="stable")
    spread = _median(distance[order], counts[order])
    return 1.4826 * spread if math.isfinite(spread) else math.nan


def _median(values: np.ndarray, counts: np.ndarray) -> float:
    """Of `values` in ascending order, each so many times: the mean of the two in the middle; NaN of none."""
    ends = np.cumsum(counts)
    if not ends[-1]:
        return math.nan
    low, high = (values[np.searchsorted(ends, place, side="left")] for place in (ends[-1] / 2, ends[-1] / 2 + 0.5))
    return float(low) if low == high else float(low + high) / 2


METRICS: dict[str, Callable[[Regression], Metric]] = {
    "mean_absolute_error": lambda _: _mean(
        "mean_absolute_error", lambda o, t: jnp.abs(_error(o, t)), better=False, training=True
    ),
    "root_mean_squared_error": lambda _: _mean(
        "root_mean_squared_error", lambda o, t: jnp.square(_error(o, t)), better=False, training=True, root=True
    ),
    "bias": lambda _: _mean("bias", _error, training=True),
    "redshift_bias": lambda _: _mean("redshift_bias", _deviation, total="deviation_sum"),
    "sigma_nmad": _sigma_nmad,
}


def build(loss: str, names: Sequence[str], num_classes: int, options: dict[str, Any]) -> Regression:
    """Raises `ValueError` or `TypeError` for what cannot be."""
    del num_classes
    return Regression(loss or LOSSES[0], tuple(names), **options)
