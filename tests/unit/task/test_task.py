"""Loss, metrics and gradients of a batch, whole and in parts.

Holds what task/update.py applies: one optimizer update with the gradient of the whole batch.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from helpers.reference import make_batches, make_task

from jaxdist.task import Classification
from jaxdist.task.update import update


def test_metrics_are_sums_over_the_examples_whose_mask_is_one():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6]]).astype(np.float32)
    label = np.array([0, 1, 2], np.int32)
    task = Classification()
    losses, metrics = task.score(logits, {"target": label}, training=True)
    np.testing.assert_allclose(losses, -np.log([0.5, 0.2, 0.6]), rtol=1e-6)
    assert float(metrics["correct"]) == 2 and float(metrics["count"]) == 3
    assert float(metrics["loss_sum"]) == np.float32(jnp.sum(losses))
    _, masked = task.score(logits.astype(jnp.bfloat16), {"target": label, "mask": np.array([1, 1, 0])}, training=False)
    assert float(masked["correct"]) == 1 and float(masked["count"]) == 2 and masked["loss_sum"].dtype == np.float32


def test_a_batch_in_parts_is_the_mean_of_the_parts_and_an_update_is_the_optimizer_s(x64):
    task = make_task("dense")
    batch = make_batches(1, 16)[0]
    arrays = jax.tree.map(np.asarray, task.init().arrays())
    halves = [jax.tree.map(lambda leaf, part=part: leaf[part], batch) for part in (slice(0, 8), slice(8, 16))]
    gradient = jax.jit(task.gradient)
    found = [gradient(arrays["params"], arrays["model_state"], half) for half in halves]
    grads, stats = jax.tree.map(lambda *leaves: sum(leaves) / 2, *((one[0], one[1]) for one in found))
    metrics = jax.tree.map(lambda *leaves: sum(leaves), *(one[2] for one in found))
    params, opt_state = task.optimizer.update(grads, arrays["opt_state"], arrays["params"], np.float64(0.05))
    wanted = {"params": params, "model_state": stats, "opt_state": opt_state}, metrics

    in_parts = dataclasses.replace(task, microbatches=2)
    new = jax.jit(lambda arrays, batch: update(in_parts, arrays, batch, np.float64(0.05)))(arrays, batch)
    assert jax.tree.structure(new) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), new, wanted)
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), new[0], arrays)
    assert all(jax.tree.leaves(moved["params"])) and all(jax.tree.leaves(moved["model_state"]))
