"""One optimizer update of the whole model on one device: what every strategy spreads out in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdist.state import Tree
from jaxdist.task.task import Batch, Metrics, Task

SKIPPED = "skipped"


def update(task: Task, arrays: Tree, batch: Batch, learning_rate: jax.Array) -> tuple[Tree, Metrics]:
    """One optimizer update with the gradient of the whole batch: (new arrays, metrics). Pure."""
    grads, stats, metrics = task.gradient(arrays["params"], arrays["model_state"], batch)
    new = task.updated(arrays, grads, stats, learning_rate)
    return unless_not_finite(task, new, arrays, grads, metrics)


def unless_not_finite(
    task: Task,
    new: Tree,
    old: Tree,
    grads: Any,
    metrics: Metrics,
    everywhere: Callable[[jax.Array], jax.Array] = lambda finite: finite,
) -> tuple[Tree, Metrics]:
    """Under health.nonfinite=skip, the old arrays where the loss or a gradient is not finite, and metrics of no example
    with `skipped` 1. Under other policies the new arrays: the step has nothing of this.

    Args:
      everywhere: whether it is so on all devices, where each has a share of the gradient: one number exchanged.
    """
    if task.nonfinite != "skip":
        return new, metrics
    finite = everywhere(all_finite((metrics["loss_sum"], grads)))
    kept = jax.tree.map(lambda one, other: jnp.where(finite, one, other), new, old)
    return kept, {name: value if name == "stop" else jnp.where(finite, value, 0) for name, value in metrics.items()} | {
        SKIPPED: 1 - finite.astype(metrics["count"].dtype)
    }


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a tree is: bool []."""
    leaves = jax.tree.leaves(tree)  # none: of a stage without parameters
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all() if leaves else jnp.array(True)
