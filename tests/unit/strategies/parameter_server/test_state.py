"""The canonical state in flat shards of servers, whatever the optimizer's state is. (Also of jaxdist.ps.shard.)"""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.three_layers import STATEFUL

from jaxdist.optim.optimizers import Optimizer
from jaxdist.parallel.flat_layout import Layout, pack, unpack
from jaxdist.ps.shard import Shard
from jaxdist.state import Position, TrainState, flatten
from jaxdist.strategies.parameter_server.state import to_canonical, to_vectors


class Pinned:
    """Values of servers as `PinnedVersion` gives them."""

    pending = ()
    progress = types.SimpleNamespace(version=3, examples_seen=48)

    def __init__(self, shards):
        self.shards, self.slots = shards, list(shards[0].values.state)

    def vector(self, what, dtype):
        return np.concatenate([s.values.flat(what).view(np.uint8) for s in self.shards]).view(dtype)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_server_shards_keep_a_chain_as_it_is_and_update_alike(x64, count):
    """Five servers of eight elements: some have no kernel, so nothing of the masked slot."""
    optimizer = Optimizer(STATEFUL, 1e-4, "mine")
    params = {"a": {"kernel": np.linspace(1, 2, 3), "bias": np.linspace(-1, 1, 4)}, "b": {"scale": np.ones(1)}}
    layout = Layout.of(flatten(params), {})
    rng = np.random.default_rng(1)
    some = lambda leaf: np.asarray(rng.uniform(0, 9, leaf.shape)).astype(leaf.dtype)  # noqa: E731
    state = jax.tree.map(some, optimizer.init(params))
    shards = [Shard(layout, i, count, optimizer) for i in range(count)]
    canonical = TrainState.of({"params": params, "model_state": {}, "opt_state": state}, 0, Position())
    for shard in shards:
        for what, vector in to_vectors(canonical, layout).items():
            if what == "stats":
                continue
            shard.load(what, vector[shard.flat_shard.params] if vector.ndim else vector.reshape(1))
    found = to_canonical(Pinned(shards), layout, optimizer.shapes(params))
    assert flatten(found.opt_state).keys() == flatten(state).keys()
    jax.tree.map(np.testing.assert_array_equal, found.opt_state, state)
    grads = jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape)), params)
    whole = pack(layout.params, flatten(grads))
    for shard in shards:
        shard.stage(1, 0, shard.flat_shard.num_bytes, memoryview(whole[shard.flat_shard.params].tobytes()))
        shard.update(1, [1], 0.1, 1.0, momentum_cut=0.5)
    expected = optimizer.update(grads, optimizer.scale_momentum(state, 0.5), params, np.float64(0.1))
    found = to_canonical(Pinned(shards), layout, optimizer.shapes(params))
    for got, wanted in zip((found.params, found.opt_state), expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, wanted)
    again = Shard(layout, 0, count, optimizer)  # from a snapshot
    again.restore(
        1, {w: shards[0].values.flat(w) for w in ("params", "stats", *(f"slot/{s}" for s in found.opt_state))}
    )
    jax.tree.map(np.testing.assert_array_equal, again.values.state, shards[0].values.state)
    assert unpack(layout.params, whole)["a/bias"].shape == (4,)


def test_a_state_that_cannot_travel_is_refused():
    layout = Layout.of(flatten({"a": {"kernel": np.ones(3, np.float32)}}), {})
    wide = optax.GradientTransformation(
        lambda p: jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), p), lambda g, s, p: (g, s)
    )
    with pytest.raises(ValueError, match="slot 'state' is int32, which float32 cannot hold"):
        Shard(layout, 0, 1, Optimizer(wide))
