"""Classes: cross-entropy, and metrics from hits and the confusion matrix."""

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

from jaxdist.data.targets import class_labels, words_of
from jaxdist.errors import UsageError
from jaxdist.task.objectives.objective import Metric, Objective, ratio

LOSSES = ("cross_entropy",)


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """One of so many classes for an example, or for each element of a sequence.

    Args:
      names: of the metrics; (): accuracy.
      num_classes: of the data set.
      label_smoothing: the part of the probability that is spread over all classes (Szegedy et al. 2016, section 7).
      class_weights: by which a loss is multiplied, one a class; (): all by 1. The mean is over examples, not over
        weights as PyTorch's is: a part of a batch must not need to know the others.
      sequence: targets are [n, length], outputs [n, length, classes], and an example's loss is the mean over the
        elements that count.
      ignored: the label of an element that does not count.
    """

    names: tuple[str, ...] = ()
    num_classes: int = 0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    sequence: bool = False
    ignored: int = -1

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be at least 0 and below 1")
        object.__setattr__(self, "class_weights", tuple(map(float, self.class_weights)))
        if self.class_weights and len(self.class_weights) != self.num_classes:
            raise ValueError(f"class_weights has {len(self.class_weights)} numbers for {self.num_classes} classes")
        if any(weight < 0 or not math.isfinite(weight) for weight in self.class_weights):
            raise ValueError(f"class_weights={self.class_weights} must be finite and at least 0")
        if "top5_accuracy" in self.names and 0 < self.num_classes < 6:
            raise ValueError(f"top5_accuracy of {self.num_classes} classes is always 1")

    @property
    def chance(self) -> float:  # type: ignore[override]
        return 0.0 if self.sequence else 1.0 / self.num_classes if self.num_classes else 0.0

    @functools.cached_property
    def metrics(self) -> Sequence[Metric]:  # type: ignore[override]
        return [METRICS[name](self) for name in self.names or ("accuracy",)]

    def check_target(self, what: str, target: np.ndarray, num_classes: int) -> np.ndarray:
        if self.sequence and target.ndim != 2:
            raise UsageError(
                f"{what} are an array {words_of(target.shape)}; with objective.options.sequence they must be "
                "[n, length], a class for each element."
            )
        return class_labels(
            what, target, num_classes, ignored=self.ignored if self.sequence else None, many=self.sequence
        )

    def num_outputs(self, target: np.ndarray, num_classes: int) -> int:
        return num_classes

    def output_shape(self, target: np.ndarray, num_classes: int) -> tuple[int, ...] | None:
        return (*target.shape[1:], num_classes)

    def losses(self, outputs: jax.Array, target: jax.Array) -> jax.Array:
        # Those that do not count are multiplied by 0, and must not be NaN for that.
        label = jnp.where(target == self.ignored, 0, target) if self.sequence else target
        if self.label_smoothing:
            hot = jax.nn.one_hot(label, outputs.shape[-1], dtype=outputs.dtype)
            losses = optax.softmax_cross_entropy(outputs, optax.smooth_labels(hot, self.label_smoothing))
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, label)
        if self.class_weights:
            losses = losses * jnp.asarray(self.class_weights, losses.dtype)[label]
        if self.sequence:
            valid = self.valid(target, losses.dtype)
            losses = jnp.sum(losses * valid, axis=1) / jnp.maximum(jnp.sum(valid, axis=1), 1)
        return losses

    def valid(self, target: jax.Array, dtype: Any) -> jax.Array:
        """1 for an element that counts, else 0; of targets' shape."""
        return (target != self.ignored).astype(dtype)

    def elements(self, target: jax.Array, counts: jax.Array) -> jax.Array:
        """What each label counts: of targets' shape."""
        return counts[:, None] * self.valid(target, counts.dtype) if self.sequence else counts


# Metrics. Each is made for an objective, whose elements it counts.


def _accuracy(objective: Classification) -> Metric:
    def sums(outputs: jax.Array, target: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
        hits = (jnp.argmax(outputs, -1) == target).astype(counts.dtype)
        found = {"correct": jnp.sum(hits * objective.elements(target, counts))}
        return found | ({"elements": jnp.sum(objective.elements(target, counts))} if objective.sequence else {})

    of = ("correct", "elements") if objective.sequence else ("correct",)
    value = lambda found: ratio(found["correct"], found[_total(objective)])  # noqa: E731
    return Metric("accuracy", of, sums, value, higher_is_better=True, training=True)


def _total(objective: Classification) -> str:
    return "elements" if objective.sequence else "count"


def _top5_accuracy(objective: Classification) -> Metric:
    def sums(outputs: jax.Array, target: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
        label = jnp.where(target == objective.ignored, 0, target) if objective.sequence else target
        own = jnp.take_along_axis(outputs, label[..., None], axis=-1)
        better = jnp.sum(outputs > own, axis=-1)
        weights = objective.elements(target, counts)
        return {"in_top5": jnp.sum((better < 5) * weights), "top5_of": jnp.sum(weights)}

    value = lambda found: ratio(found["in_top5"], found["top5_of"])  # noqa: E731
    return Metric("top5_accuracy", ("in_top5", "top5_of"), sums, value, higher_is_better=True)


def _of_confusion(name: str, value: Callable[[np.ndarray], Any], better: bool | None) -> Any:
    """A metric from the counts [true class, predicted class]."""

    def make(objective: Classification) -> Metric:
        def sums(outputs: jax.Array, target: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
            classes, weights = outputs.shape[-1], objective.elements(target, counts).reshape(-1)
            true = jax.nn.one_hot(target.reshape(-1), classes, dtype=counts.dtype) * weights[:, None]
            predicted = jax.nn.one_hot(jnp.argmax(outputs, -1).reshape(-1), classes, dtype=counts.dtype)
            return {"confusion": true.T @ predicted}

        return Metric(name, ("confusion",), sums, lambda found: value(np.asarray(found["confusion"])), better)

    return make


def _per_class(confusion: np.ndarray) -> list[float]:
    """The part of each class's examples that was found; NaN for a class without examples."""
    return [ratio(confusion[c, c], confusion[c].sum()) for c in range(len(confusion))]


def _average(confusion: np.ndarray) -> float:
    """The mean over the classes that there are (balanced accuracy)."""
    known = [accuracy for accuracy in _per_class(confusion) if not math.isnan(accuracy)]
    return float(np.mean(known)) if known else math.nan


def _kappa(confusion: np.ndarray) -> float:
    """Cohen 1960: the agreement beyond that of chance, as a part of what there could be."""
    total = confusion.sum()
    if not total:
        return math.nan
    by_chance = float(confusion.sum(0) @ confusion.sum(1)) / total**2
    return (float(np.trace(confusion)) / total - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan


METRICS: dict[str, Callable[[Classification], Metric]] = {
    "accuracy": _accuracy,
    "top5_accuracy": _top5_accuracy,
    "per_class_accuracy": _of_confusion("per_class_accuracy", _per_class, None),
    "average_accuracy": _of_confusion("average_accuracy", _average, True),
    "kappa": _of_confusion("kappa", _kappa, True),
    "confusion_matrix": _of_confusion("confusion_matrix", lambda c: c.astype(int).tolist(), None),
}


def build(loss: str, names: Sequence[str], num_classes: int, options: dict[str, Any]) -> Classification:
    """Raises `ValueError` or `TypeError` for what cannot be."""
    del loss  # there is one
    return Classification(tuple(names), num_classes, **options)
