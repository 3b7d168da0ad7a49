"""Every program of a training step is one for GPUs, too: lowered for CUDA, without a card, by XLA's operations alone.

`jax.pmap` is not asked: it cannot be lowered for a device that is not there. Its body is that of shard_map.
"""

from __future__ import annotations

import contextlib

import jax
import numpy as np
import pytest
from helpers.in_process import SHARDED, run_pipeline, run_strategy
from helpers.processes import long
from helpers.reference import make_batches, make_task

from jaxdist.ops import backend
from jaxdist.ops.native import library
from jaxdist.ops.platforms import for_all_platforms
from jaxdist.strategies.parameter_server.flat_model import FlatModel


class Recorded:
    """Stands for a function that `jax.jit` has made, and keeps what it was called with."""

    def __init__(self, made, calls: list) -> None:
        self._made, self._calls = made, calls

    def _keep(self, args, keywords) -> None:
        self._calls.append((self._made, *jax.tree.map(_shape_of, (args, keywords))))

    def __call__(self, *args, **keywords):
        self._keep(args, keywords)
        return self._made(*args, **keywords)

    def lower(self, *args, **keywords):
        self._keep(args, keywords)
        return self._made.lower(*args, **keywords)

    def __getattr__(self, name):
        return getattr(self._made, name)


def _shape_of(x):
    if not hasattr(x, "dtype"):
        return x
    sharding = getattr(x, "sharding", None)
    spread = isinstance(sharding, jax.sharding.NamedSharding)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding if spread else None)


@pytest.fixture
def calls(monkeypatch):
    """(function, args, keywords) of each call of a compiled function of this package."""
    found: list = []
    make = jax.jit

    def recorded(function=None, **options):
        if function is None:
            return lambda function: Recorded(make(function, **options), found)
        return Recorded(make(function, **options), found)

    monkeypatch.setattr(jax, "jit", recorded)
    return found


@pytest.fixture(params=["xla", long("native")])
def _operations(request):
    """As on a CPU host with or without native kernels, which must not reach a GPU's program."""
    if request.param == "native":
        with contextlib.suppress(library.NotThere):
            library.load()
        backend.use("auto")
    with for_all_platforms():
        yield


STRATEGIES = [
    ("single", 1, {"name": "single"}),
    ("allreduce", 4, {}),
    long("allreduce, jit", 4, {"spmd": "jit"}),
    ("a mesh", 4, SHARDED | {"mesh": "data:2,model:2"}),
    long("fsdp", 4, SHARDED | {"shard_params": "fsdp"}),
    long("zero1", 4, SHARDED | {"shard_params": "zero1"}),
]


@pytest.mark.parametrize(("name", "devices", "settings"), STRATEGIES)
def test_the_step_of_a_strategy(calls, _operations, name, devices, settings):
    run_strategy(make_task("chain", np.float32), make_batches(1, 16, np.float32), devices=devices, **settings)
    check(calls)


def test_the_stages_of_a_pipeline(calls, _operations):
    task = make_task("chain", np.float32)
    run_pipeline(task, make_batches(1, 16, np.float32), devices=2, num_stages=2, num_microbatches=2)
    check(calls)


def test_the_gradient_of_a_worker_of_servers(calls, _operations):
    task, batch = make_task("chain", np.float32), make_batches(1, 16, np.float32)[0]
    model = FlatModel(task, 2)
    buffers = model.put([np.zeros(s.num_params + s.num_stats, np.float32) for s in model._flat_shards])
    jax.block_until_ready(model.gradient(buffers, model.put_batch(batch)))
    check(calls)


def check(calls: list) -> None:
    convolutions = 0
    for function, args, keywords in calls:
        text = function.trace(*args, **keywords).lower(lowering_platforms=("cuda",)).as_text()
        assert "jaxdist_" not in text
        convolutions += text.count("stablehlo.convolution")
    assert convolutions > 5, f"{convolutions} convolutions in {len(calls)} programs"
