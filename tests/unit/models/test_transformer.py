"""The transformer: who sees what, and what cannot be built. That it trains alike everywhere: `transparency/`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdist import models
from jaxdist.models import contract

TOKENS = {"tokens": jax.ShapeDtypeStruct((7,), jnp.int32)}


@pytest.fixture(scope="module")
def outputs():
    graph = models.build("transformer", inputs=TOKENS, num_outputs=11, settings={"dropout": 0.0}, options={"width": 8})
    contract.check(graph, np.float32)
    params = {name: graph.init_block(name, 3)[0] for name in graph.names}
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf + rng.normal(size=leaf.shape) / 3, jnp.float32), params)

    @jax.jit
    def run(tokens):
        return graph.apply(params, {}, {"tokens": tokens}, models.Context(train=False))[0][graph.head]

    return run


def test_a_position_sees_those_before_it_and_no_padding(outputs):
    tokens = np.array([[1, 2, 3, 4, 5, 0, 0]], np.int32)
    whole = outputs(tokens)
    assert whole.shape == (1, 7, 11)
    later = tokens.copy()
    later[0, 3] = 9
    np.testing.assert_array_equal(outputs(later)[0, :3], whole[0, :3])
    assert np.abs(outputs(later)[0, 3:5] - whole[0, 3:5]).max() > 1e-3
    longer = np.concatenate([tokens[:, :5], [[0, 0]]], axis=1)  # what is padding is seen by nobody before it
    np.testing.assert_array_equal(outputs(longer.astype(np.int32))[0, :5], whole[0, :5])
    hidden = tokens.copy()
    hidden[0, 1] = 0
    seen = np.abs(outputs(hidden)[0, 3] - whole[0, 3]).max()
    assert seen > 1e-3  # a token that becomes padding is seen no more


def test_a_model_that_cannot_be():
    with pytest.raises(ValueError, match="not layers=1, width=8, heads=3"):
        models.build(
            "transformer", inputs=TOKENS, num_outputs=5, settings={}, options={"layers": 1, "width": 8, "heads": 3}
        )
    with pytest.raises(ValueError, match="asks for 'tokens', and there is no such block or input"):
        models.build("transformer", inputs=(7,), num_outputs=5, settings={}, options={})
    floats = {"tokens": jax.ShapeDtypeStruct((7,), jnp.float32)}
    graph = models.build("transformer", inputs=floats, num_outputs=5, settings={}, options={})
    with pytest.raises(ValueError, match="takes tokens, integers, and not float32: give the input the scale None"):
        contract.check(graph, np.float32)


def test_a_chain_with_tokens_is_a_chain():
    graph = models.build("transformer", inputs=TOKENS, num_outputs=5, settings={}, options={"layers": 3})
    assert graph.is_chain and graph.names == ("embed", "layer1", "layer2", "layer3", "head")
