"""A task through the servers' buffers: the same gradients, statistics and metrics, cut among servers."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.in_process import only
from helpers.reference import make_batches, make_task

from jaxdist.parallel.flat_layout import pack
from jaxdist.state import flatten
from jaxdist.strategies.parameter_server.flat_model import FlatModel

SERVERS = 2


def buffers(model: FlatModel, params, stats) -> list[np.ndarray]:
    """Of each server: its parameters, then its statistics."""
    vectors = pack(model.layout.params, flatten(params)), pack(model.layout.stats, flatten(stats))
    shards = [model.layout.shard(i, SERVERS) for i in range(SERVERS)]
    return [np.concatenate([vectors[0][s.params], vectors[1][s.stats]]) for s in shards]


def test_several_devices_are_averaged_and_what_is_not_finite_is_said(x64):
    task, batch = make_task("dense"), make_batches(1, 16)[0]
    canonical = jax.tree.map(np.asarray, task.init().arrays())
    params, stats = canonical["params"], canonical["model_state"]
    gradient = jax.jit(task.gradient)
    halves = [jax.tree.map(lambda leaf, part=part: leaf[part], batch) for part in (slice(0, 8), slice(8, 16))]
    grads, new_stats, sums = jax.tree.map(lambda a, b: a + b, *(gradient(params, stats, half) for half in halves))
    expected = jax.tree.map(lambda leaf: np.asarray(leaf) / 2, (grads, new_stats))
    with only(2):
        model = FlatModel(task, SERVERS)
        found, metrics = model.gradient(model.put(buffers(model, params, stats)), model.put_batch(batch))
        for a, b in zip(found, buffers(model, *expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        for name, value in sums.items():
            assert float(metrics[name]) == pytest.approx(float(value), rel=1e-12)
        assert bool(metrics["finite"])
        for server, element in ((0, 0), (1, -1)):  # the head's bias, and a running statistic: each alone
            broken = buffers(model, params, stats)
            broken[server][element] = np.nan
            assert not bool(model.gradient(model.put(broken), model.put_batch(batch))[1]["finite"])


def test_an_evaluation_is_of_the_whole_batch_on_one_device(x64):
    task, batch = make_task("dense"), make_batches(1, 16)[0]
    canonical = jax.tree.map(np.asarray, task.init().arrays())
    params, stats = canonical["params"], canonical["model_state"]
    batch = {"inputs": batch["inputs"], "target": batch["target"], "mask": np.arange(16) < 11}
    expected = jax.jit(task.evaluate)(params, stats, batch)
    with only(2):
        model = FlatModel(task, SERVERS)
        found = model.evaluate(model.put(buffers(model, params, stats)), batch)
    assert found.keys() == expected.keys() and float(found["count"]) == 11
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-12)
