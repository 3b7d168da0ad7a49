"""The single-device reference, written out plainly: what every strategy must equal."""

from __future__ import annotations

import functools

import jax
import numpy as np

from jaxdist import data, models
from jaxdist.optim import optimizers, schedules
from jaxdist.state import Position, TrainState, flatten
from jaxdist.task import Task

TINY = {
    "dense": {"features": 4},
    "chain": {},
    "densenet": {"depth": 10, "growth_rate": 4, "dropout": 0.2},
    "resnet": {"depth": 8, "width": 4},
    "resnet_v2": {"depth": 11, "width": 4, "version": 2},
}
FAMILY = {"dense": "helpers.own.two_blocks:build", "chain": "helpers.tiny_chain:build", "resnet_v2": "resnet"}
SHAPE = (8, 8, 1)


@functools.cache
def make_task(name: str, dtype=np.float64, optimizer: str = "sgd", seed: int = 3) -> Task:
    """The same object for the same arguments: its model is traced once, and its references are trained once.

    'dense': two blocks, with statistics, for what needs a model, be it the smallest; 'chain': what the families are
    made of, for what is not about one of them.
    """
    chain = models.build(FAMILY.get(name, name), inputs=SHAPE, num_outputs=10, settings={}, options=TINY[name])
    rule = optimizers.build(optimizer, momentum=0.9, weight_decay=1e-4)
    rate = schedules.step_decay(0.05, drop_epochs=(0.5,), drop_factor=0.1, examples_per_epoch=480)
    return Task(chain, rule, rate, seed, np.dtype(dtype))


def make_batches(count: int, size: int, dtype=np.float64, seed: int = 3) -> list[dict[str, np.ndarray]]:
    """Whole global batches from the deterministic stream, on the host."""
    return [_make_batch(k, size, dtype, seed) for k in range(count)]


@functools.cache
def _source(dtype, seed: int):
    dataset = data.load("synthetic", seed=seed, options={"num_train": 240, "num_eval": 40, "shape": SHAPE})
    loader = data.Loader(
        means=data.mean_of(dataset.train), scales={"image": 255.0}, seed=seed, augment=True, dtype=dtype
    )
    stream = data.ExampleStream(len(dataset.train), seed)
    return loader, dataset.train, stream


@functools.cache
def _make_batch(k: int, size: int, dtype, seed: int) -> dict[str, np.ndarray]:
    loader, examples, stream = _source(dtype, seed)
    return loader.train_batch(examples, stream, range(k * size, (k + 1) * size))


def train_reference(task: Task, batches, *, replicas: int) -> TrainState:
    """Replica by replica on one device: gradients and statistics averaged, one update. replicas=1: global BatchNorm.

    What a task has been trained on is kept: the same batches, or more of them, cost only what is new.
    """
    arrays = _reference(task, jax.config.jax_enable_x64).after(batches, replicas)
    return TrainState.of(arrays, len(batches), Position(sum(len(batch["target"]) for batch in batches)))


@functools.cache
def _reference(task: Task, x64: bool) -> _Reference:
    return _Reference(task)


class _Reference:
    """One task on one device, with its compiled programs and all states that it has been in."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._gradient, self._update = jax.jit(task.gradient), jax.jit(task.optimizer.update)
        self._clip = jax.jit(task.clipped)
        self._initial = jax.tree.map(np.asarray, task.init().arrays())
        self._states: dict[tuple[int, ...], tuple] = {}  # (replicas, ids of batches) -> (the batches, arrays after)

    def after(self, batches, replicas: int):
        arrays, seen = self._initial, 0
        for k, batch in enumerate(batches):
            key = (replicas, *map(id, batches[: k + 1]))
            if key not in self._states:
                self._states[key] = batches[: k + 1], self._step(arrays, batch, replicas, seen)
            arrays = self._states[key][1]
            seen += len(batch["target"])
        return arrays

    def _step(self, arrays, batch, replicas: int, seen: int):
        size = len(batch["target"])
        found = []
        for r in range(replicas):
            share = slice(r * size // replicas, (r + 1) * size // replicas)
            part = jax.tree.map(lambda v, share=share: v[share], batch)
            grads, stats, _ = self._gradient(arrays["params"], arrays["model_state"], part)
            found.append(jax.tree.map(np.asarray, (grads, stats)))  # NumPy's sums need no compiling
        grads, stats = jax.tree.map(lambda *leaves: sum(leaves) / replicas, *found)
        if self.task.clip_global_norm:
            grads = jax.tree.map(np.asarray, self._clip(grads))
        rate = np.asarray(self.task.learning_rate(seen), self.task.dtype)
        params, opt_state = self._update(grads, arrays["opt_state"], arrays["params"], rate)
        return jax.tree.map(np.asarray, {"params": params, "model_state": stats, "opt_state": opt_state})


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
