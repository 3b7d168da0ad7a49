"""The objectives there are: one line each, or a function of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from jaxdist.dotted import function_of
from jaxdist.errors import nearest
from jaxdist.task.objectives import classification, regression
from jaxdist.task.objectives.objective import Objective

OBJECTIVES: dict[str, ModuleType] = {"classification": classification, "regression": regression}


def build(
    name: str,
    *,
    loss: str = "",
    metrics: Sequence[str] = (),
    num_classes: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Objective:
    """An objective of `OBJECTIVES`, or by 'package.module:function' of the user's, which is given `options`.

    Args:
      loss, metrics: by name; '' and (): the objective's own.

    Raises:
      ValueError: what cannot be, with what there is.
    """
    options = dict(options or {})
    if ":" in name:
        if loss or metrics:
            raise ValueError(f"objective.loss and objective.metrics are for {', '.join(OBJECTIVES)}; yours has its own")
        found = function_of(name, "objective.name")(**options)
        if not isinstance(found, Objective):
            raise ValueError(f"objective.name={name!r} returned a {type(found).__name__}, not a jaxdist.task.Objective")
        return found
    kind = OBJECTIVES[name]
    if loss and loss not in kind.LOSSES:
        raise ValueError(
            f"objective.loss={loss!r} is no loss of objective.name={name!r}{nearest(loss, kind.LOSSES)}; "
            f"it has {', '.join(kind.LOSSES)}"
        )
    for metric in metrics:
        _check_metric(name, kind, metric)
    try:
        return kind.build(loss, metrics, num_classes, options)
    except TypeError as e:
        raise ValueError(f"objective.options does not fit objective.name={name!r}: {e}") from e


def _check_metric(name: str, kind: ModuleType, metric: str) -> None:
    known = list(kind.METRICS)
    outliers = getattr(kind, "OUTLIERS", None)
    if outliers is not None:
        known.append(f"{outliers}0.01")
        if metric.startswith(outliers):
            try:
                if float(metric.removeprefix(outliers)) > 0:
                    return
            except ValueError:
                pass
            raise ValueError(f"objective.metrics: {metric!r} needs a threshold above 0, as in {outliers}0.01")
    if metric not in known:
        raise ValueError(
            f"objective.metrics: {metric!r} is no metric of objective.name={name!r}{nearest(metric, known)}; it has "
            f"{', '.join(known)}"
        )
