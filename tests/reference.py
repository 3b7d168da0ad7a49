"""The single-device reference, written out plainly: what every strategy must equal."""

from __future__ import annotations

import jax
import numpy as np

from jaxdist import data, models
from jaxdist.optim import optimizers, schedules
from jaxdist.state import Position, TrainState, flatten
from jaxdist.task import Task

TINY = {
    "densenet": {"depth": 10, "growth_rate": 4, "dropout": 0.2},
    "resnet": {"depth": 8, "width": 4},
    "resnet_v2": {"depth": 11, "width": 4, "version": 2},
}
SHAPE = (8, 8, 1)


def make_task(name: str, dtype=np.float64, optimizer: str = "sgd", seed: int = 3) -> Task:
    chain = models.build(name.removesuffix("_v2"), input_shape=SHAPE, num_classes=10, settings={}, options=TINY[name])
    rule = optimizers.build(optimizer, momentum=0.9, weight_decay=1e-4)
    rate = schedules.step_decay(0.05, drop_epochs=(0.5,), drop_factor=0.1, examples_per_epoch=480)
    return Task(chain, rule, rate, seed, np.dtype(dtype))


def make_batches(count: int, size: int, dtype=np.float64, seed: int = 3) -> list[dict[str, np.ndarray]]:
    """Whole global batches from the deterministic stream, on the host."""
    dataset = data.load("synthetic", seed=seed, options={"num_train": 240, "num_eval": 40, "shape": SHAPE})
    loader = data.Loader(mean=data.mean_image(dataset.train), scale=255.0, seed=seed, augment=True, dtype=dtype)
    stream = data.ExampleStream(len(dataset.train), seed)
    return [loader.train_batch(dataset.train, stream, range(k * size, (k + 1) * size)) for k in range(count)]


def train_reference(task: Task, batches, *, replicas: int) -> TrainState:
    """Replica by replica on one device: gradients and statistics averaged, one update. replicas=1: global BatchNorm."""
    state = task.init()
    arrays = jax.tree.map(np.asarray, state.arrays())
    gradient = jax.jit(task.gradient)
    update = jax.jit(task.optimizer.update)
    seen = 0
    for batch in batches:
        size = len(batch["label"])
        found = []
        for r in range(replicas):
            share = slice(r * size // replicas, (r + 1) * size // replicas)
            part = {k: v[share] for k, v in batch.items()}
            grads, stats, _ = gradient(arrays["params"], arrays["model_state"], part)
            found.append((grads, stats))
        grads, stats = jax.tree.map(lambda *leaves: sum(leaves) / replicas, *found)
        rate = np.asarray(task.learning_rate(seen), task.dtype)
        params, opt_state = update(grads, arrays["opt_state"], arrays["params"], rate)
        arrays = {"params": params, "model_state": stats, "opt_state": opt_state}
        seen += size
    return TrainState.of(jax.tree.map(np.asarray, arrays), len(batches), Position(seen))


def assert_same(actual: TrainState, expected: TrainState, tolerance: float) -> None:
    """Every array of the canonical state, compared relative to the array's own largest value."""
    assert (actual.updates, actual.examples_seen) == (expected.updates, expected.examples_seen)
    found, wanted = flatten(actual.arrays()), flatten(expected.arrays())
    assert found.keys() == wanted.keys()
    for name in wanted:
        a, b = np.asarray(found[name]), np.asarray(wanted[name])
        assert a.dtype == b.dtype, name
        scale = max(float(np.max(np.abs(b), initial=0.0)), 1.0)
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=tolerance, err_msg=name)
