"""What blocks cost: bytes by their shapes, and times that every process gets."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from helpers.reference import make_task

from jaxdist.cost import blocks
from jaxdist.cost.blocks import block_costs, measured


def test_bytes_are_those_of_the_shapes(x64):
    task = make_task("dense")
    hidden, head = block_costs(task, 5)
    assert (hidden.name, head.name) == ("hidden", "head")
    assert hidden.input_bytes == 0 and hidden.output_bytes == 5 * 4 * 8 == head.input_bytes  # images cross no cut
    assert hidden.param_bytes == 8 * (64 * 4 + 4 + 2 * 4) and head.param_bytes == 8 * (4 * 10 + 10)
    assert head.output_bytes == 8 and head.saved_bytes >= head.input_bytes  # the mean loss
    twice = block_costs(task, 10)[0]
    assert twice.param_bytes == hidden.param_bytes and twice.output_bytes == 2 * hidden.output_bytes


def test_activations_have_the_dtype_that_is_computed_in():
    task = dataclasses.replace(make_task("chain", np.float32), compute_dtype=jnp.bfloat16)
    stem = block_costs(task, 5)[0]
    assert stem.output_dtype == jnp.bfloat16 and stem.output_bytes == 5 * 4 * 4 * 4 * 2
    assert stem.param_bytes == 4 * (9 * 4 + 2 * 4)


def test_each_process_measures_its_share_and_all_get_all(x64, monkeypatch):
    monkeypatch.setattr(blocks, "_ROUNDS", 2)
    task = make_task("dense")
    costs = block_costs(task, 5)
    asked = []

    def gather(own):
        asked.append(own)
        return [{"hidden": [0.25, 0.5]}, own]

    found = measured(task, costs, 5, remat=False, part=1, parts=2, gather=gather)
    (own,) = asked
    assert own.keys() == {"head"} and all(0 < seconds < 60 for seconds in own["head"])
    assert [(c.forward, c.backward) for c in found] == [(0.25, 0.5), own["head"]]
    assert [dataclasses.replace(c, forward=None, backward=None) for c in found] == costs
    assert np.isfinite(found[1].forward)
