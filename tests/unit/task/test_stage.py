"""One stage of a pipeline: its blocks, its share of the state, and passes that add up to the whole model's.

That pipelines of stages train as one device does is held by `transparency/`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.processes import long
from helpers.reference import make_batches, make_task

from jaxdist.task.stage import Stage


@pytest.mark.parametrize("remat", [False, long(True)])
def test_two_stages_do_what_the_whole_model_does(x64, remat):
    """Whether they keep what the backward pass needs or compute it again."""
    task, batch = make_task("dense"), make_batches(1, 16)[0]
    arrays = jax.tree.map(np.asarray, task.init().arrays())
    halves = [jax.tree.map(lambda leaf, part=part: leaf[part], batch) for part in (slice(0, 8), slice(8, 16))]
    gradient = jax.jit(task.gradient)
    found = [gradient(arrays["params"], arrays["model_state"], half) for half in halves]
    grads, stats, metrics = jax.tree.map(lambda *leaves: sum(leaves), *found)
    first, last = (Stage(task, names, remat=remat) for names in (["hidden"], ["head"]))
    assert (first.reads_inputs, first.is_last, last.reads_inputs, last.is_last) == (True, False, False, True)
    assert (first.coming, first.going, last.coming, last.going) == ((), ("hidden",), ("hidden",), ())
    own = [jax.tree.map(jnp.asarray, stage.cut_arrays(arrays)) for stage in (first, last)]
    for part, name in zip(own, ("hidden", "head"), strict=True):
        assert list(part["params"]) == list(part["opt_state"]["trace"]) == [name]

    (sums0, grads0), (sums1, grads1) = (stage.start(part) for stage, part in zip((first, last), own, strict=True))
    assert sums0["metrics"] == {} and sums1["metrics"].keys() == set(last.sum_names)
    for half in halves:
        y, sums0, saved0 = first.forward(own[0], sums0, {}, half)
        loss, sums1, saved1 = last.forward(own[1], sums1, y, half)
        by_y, grads1 = last.backward(own[1], y, half, saved1, jnp.ones_like(loss), grads1)
        nothing, grads0 = first.backward(own[0], {}, half, saved0, by_y, grads0)
        assert nothing == {}

    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12)  # noqa: E731
    jax.tree.map(close, grads0 | grads1, grads)
    jax.tree.map(close, sums0["stats"] | sums1["stats"], stats)
    jax.tree.map(close, sums1["metrics"], metrics)
    new = [
        stage.update(part, own_grads, sums["stats"], jnp.float64(0.05), jnp.float64(2))
        for stage, part, own_grads, sums in zip((first, last), own, (grads0, grads1), (sums0, sums1), strict=True)
    ]
    half_of = lambda tree: jax.tree.map(lambda leaf: leaf / 2, tree)  # noqa: E731
    params, _ = task.optimizer.update(half_of(grads), arrays["opt_state"], arrays["params"], np.float64(0.05))
    jax.tree.map(close, new[0]["params"] | new[1]["params"], params)
    jax.tree.map(close, new[0]["model_state"] | new[1]["model_state"], half_of(stats))
