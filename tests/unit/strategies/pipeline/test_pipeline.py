"""Stages import, update and export the state of any chain of optimizers as the whole model does.

Metrics that are made when they are looked at (`strategies/pipeline/jobs.py`) and links
(`strategies/pipeline/workers.py`) are held by `transparency/`.
"""

from __future__ import annotations

import jax
import numpy as np
from helpers.in_process import build_pipeline
from helpers.reference import assert_same, make_batches, train_reference
from helpers.three_layers import STATEFUL, three_layers

from jaxdist.task.stage import Stage


def test_stages_keep_a_chain_as_it_is(x64):
    task = three_layers(STATEFUL)
    begun = train_reference(task, make_batches(1, 16), replicas=1)
    pipeline = build_pipeline(task, devices=2, num_stages=2)
    try:
        assert_same(pipeline.export_state(pipeline.import_state(begun)), begun, 0.0)
    finally:
        pipeline.close()
    names = task.model.names
    arrays = jax.tree.map(np.asarray, begun.arrays())
    grads = jax.tree.map(lambda leaf: np.sin(np.arange(leaf.size)).reshape(leaf.shape), arrays["params"])
    params, slots = jax.jit(task.optimizer.update)(grads, arrays["opt_state"], arrays["params"], np.float64(0.1))
    for part in (names[:2], names[2:]):
        stage = Stage(task, part)
        own = stage.cut_arrays(arrays)
        new, own_slots = jax.jit(task.optimizer.update)(
            stage.cut(grads), own["opt_state"], own["params"], np.float64(0.1)
        )
        expected = stage.cut_arrays({"params": params, "model_state": {}, "opt_state": slots})
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), new, expected["params"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), own_slots, expected["opt_state"])
