"""What becomes of the optimizer's momentum where a synchronous phase hands over to an asynchronous one.

Both kinds of phase gather the same velocity v = m v + g. But a global batch is one update there and N pushes here, each
with the learning rate divided by N, so that v is forgotten N times as fast by the examples, and a worker's gradient was
taken where v had not yet moved the parameters. Sync-Switch (Li et al., ICDCS 2021, section IV-B) compares what
one can do:

    keep    v as it is
    zero    v = 0: the asynchronous phase gathers its own
    scale   v / N
    ramp    v as it is, and m grows from 0 to its value over the phase's first epoch, linearly in examples
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdist.state import TrainState, Tree

CHOICES = ("keep", "zero", "scale", "ramp")


def is_momentum(slot: str) -> bool:
    """Whether a slot of an optimizer holds v: optax calls it `trace`, wherever it lies in a chain."""
    return slot.rpartition(".")[2] == "trace"


def scaled(opt_state: Tree, factor: Any) -> Tree:
    """An optimizer's state with its momentum multiplied; the same one where the rule has none. Traceable."""
    slots = [slot for slot in opt_state if is_momentum(slot)]
    if not slots:
        return opt_state
    multiplied = jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), {s: opt_state[s] for s in slots})
    return opt_state | multiplied


def handed_over(state: TrainState, how: str, num_workers: int) -> TrainState:
    """The canonical state that the asynchronous phase begins with; the same one where the rule has no momentum."""
    factor = {"zero": 0.0, "scale": 1.0 / num_workers}.get(how)
    if factor is None or not any(map(is_momentum, state.opt_state)):
        return state
    here = {s: jax.tree.map(np.asarray, tree) for s, tree in state.opt_state.items() if is_momentum(s)}
    return dataclasses.replace(state, opt_state=state.opt_state | scaled(here, factor), cut_by=None)


def cut(ramp: Sequence[int] | None, examples_seen: int) -> float:
    """The part of the momentum, from 0 to 1, that an update is to drop; `ramp`: (begin, length) in examples."""
    if ramp is None:
        return 0.0
    begin, length = ramp
    return min(max(1.0 - (examples_seen - begin) / length, 0.0), 1.0)
