"""What is trained: model, objective and initial state, whole or stage by stage. Importing this room imports no jax: its
names are loaded when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdist.task.objectives import Classification as Classification
    from jaxdist.task.objectives import Metric as Metric
    from jaxdist.task.objectives import Objective as Objective
    from jaxdist.task.objectives import Regression as Regression
    from jaxdist.task.task import Batch as Batch
    from jaxdist.task.task import Metrics as Metrics
    from jaxdist.task.task import Task as Task

_WHERE = {
    "Batch": "task",
    "Classification": "objectives",
    "Metric": "objectives",
    "Metrics": "task",
    "Objective": "objectives",
    "Regression": "objectives",
    "Task": "task",
}


def __getattr__(name: str) -> Any:
    """PEP 562: a public name, from the module that it is in."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
