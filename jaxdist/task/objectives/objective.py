"""The contract between a task and what it is trained for.

    batch      outputs of the last block [b, ...], target [b, ...]
    loss       one number an example; a step minimises its mean
    metrics    sums over examples, on the device -> added up over devices, processes and batches -> divided once

so that every number is that of the whole split, however it was spread and padded.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdist.data.targets import finite_numbers
from jaxdist.errors import nearest

LOSS_SUM, COUNT = "loss_sum", "count"
Sums = Mapping[str, Any]  # {name: array}, LOSS_SUM and COUNT among them


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of a split, or several, from sums over its examples.

    Attributes:
      name: in rows, the summary and TensorBoard.
      of: names of its sums; metrics that need the same sum call it the same.
      sums: (outputs [b, ...], target [b, ...], counts [b]: 1, or 0 where an example does not count) -> {name: sum over
        the examples, an array of any shape}. Traceable.
      value: {name: sum}, with 'count' -> a number, or (nested) lists of numbers.
      higher_is_better: None where it cannot be compared.
      training: it is taken of training steps too, where its sums must be single numbers.
    """

    name: str
    of: tuple[str, ...] = ()
    sums: Callable[[jax.Array, jax.Array, jax.Array], dict[str, jax.Array]] = dataclasses.field(
        default=lambda outputs, target, counts: {}, compare=False
    )
    value: Callable[[Sums], Any] = dataclasses.field(default=lambda sums: float("nan"), compare=False)
    higher_is_better: bool | None = None
    training: bool = False


def mean_of(name: str) -> Callable[[Sums], float]:
    """The value that is a sum divided by the number of examples; NaN of none."""
    return lambda sums: ratio(sums[name], sums[COUNT])


def ratio(total: Any, count: Any) -> float:
    return float(total) / float(count) if count else float("nan")


LOSS = Metric("loss", (LOSS_SUM,), value=mean_of(LOSS_SUM), higher_is_better=False, training=True)


class Objective(abc.ABC):
    """What is trained for. A subclass writes `losses`; the rest is for those who need it. Pure, and hashable.

    Attributes:
      metrics: besides the loss, of evaluations; those with `training` of training steps too.
      chance: the accuracy of guessing; 0 where there is none.
    """

    metrics: Sequence[Metric] = ()
    chance: float = 0.0

    @abc.abstractmethod
    def losses(self, outputs: jax.Array, target: jax.Array) -> jax.Array:
        """[b], of outputs [b, ...] in float32 or float64. Traceable."""

    def check_target(self, what: str, target: np.ndarray, num_classes: int) -> np.ndarray:
        """The target as it is trained on.

        Raises:
          UsageError: it does not fit; the sentence begins with `what`.
        """
        return finite_numbers(what, target, num_classes)

    def num_outputs(self, target: np.ndarray, num_classes: int) -> int:
        """The first argument of whoever builds the model. `target`: of some examples."""
        return num_classes or int(np.prod(target.shape[1:], dtype=int)) or 1

    def output_shape(self, target: np.ndarray, num_classes: int) -> tuple[int, ...] | None:
        """What the last block must return for one example; None: anything."""
        return None

    # The rest is the same for all.

    @property
    def training_metrics(self) -> list[Metric]:
        return [metric for metric in self.metrics if metric.training]

    @property
    def training_sums(self) -> tuple[str, ...]:
        """Names of a training step's sums, in the order in which they travel."""
        return tuple(
            dict.fromkeys([LOSS_SUM, *(name for metric in self.training_metrics for name in metric.of), COUNT])
        )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The loss's and the metrics'."""
        return ("loss", *(metric.name for metric in self.metrics))

    def metric(self, name: str) -> Metric:
        """The metric of that name, 'loss' among them.

        Raises:
          ValueError: there is none; with the nearest.
        """
        known = {metric.name: metric for metric in (LOSS, *self.metrics)}
        if name not in known:
            raise ValueError(f"{name!r} is no metric of this run{nearest(name, known)}; it has {', '.join(known)}")
        return known[name]

    def score(
        self, outputs: jax.Array, batch: Mapping[str, Any], *, training: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(each example's loss, times its weight; sums for the loss and the metrics) of one batch. Traceable.

        Examples whose mask is 0 do not count in the sums.
        """
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        target, mask = batch["target"], batch.get("mask")
        losses = self.losses(outputs, target)
        if "weight" in batch:
            losses = losses * batch["weight"].astype(losses.dtype)
        counts = jnp.ones_like(losses) if mask is None else mask.astype(losses.dtype)
        sums = {LOSS_SUM: jnp.sum(losses * counts)}
        for metric in self.training_metrics if training else self.metrics:
            sums |= metric.sums(outputs, target, counts)
        return losses, sums | {COUNT: jnp.sum(counts)}

    def values(self, sums: Sums, *, training: bool = False) -> dict[str, Any]:
        """{'loss': number, metric: number or lists} from sums over a split or over training steps."""
        metrics = self.training_metrics if training else self.metrics
        return {metric.name: metric.value(sums) for metric in (LOSS, *metrics)}
