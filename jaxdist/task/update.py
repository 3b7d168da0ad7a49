"""One optimizer update of the whole model on one device: what every strategy spreads out in its own way."""

from __future__ import annotations

import jax

from jaxdist.state import Tree
from jaxdist.task.task import Batch, Metrics, Task


def update(task: Task, arrays: Tree, batch: Batch, learning_rate: jax.Array) -> tuple[Tree, Metrics]:
    """One optimizer update with the gradient of the whole batch: (new arrays, metrics). Pure."""
    grads, stats, metrics = task.gradient(arrays["params"], arrays["model_state"], batch)
    params, opt_state = task.optimizer.update(grads, arrays["opt_state"], arrays["params"], learning_rate)
    return {"params": params, "model_state": stats, "opt_state": opt_state}, metrics
