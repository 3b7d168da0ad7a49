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

from collections.abc import Sequence

import jax
import numpy as np

from jaxdist.state import TrainState

SLOT = "trace"  # optax's name of v
CHOICES = ("keep", "zero", "scale", "ramp")


def handed_over(state: TrainState, how: str, num_workers: int) -> TrainState:
    """The canonical state that the asynchronous phase begins with; the same one where the rule has no momentum."""
    factor = {"zero": 0.0, "scale": 1.0 / num_workers}.get(how)
    if factor is None or SLOT not in state.opt_state:
        return state
    scaled = jax.tree.map(lambda leaf: (np.asarray(leaf) * factor).astype(leaf.dtype), state.opt_state[SLOT])
    arrays = state.arrays() | {"opt_state": state.opt_state | {SLOT: scaled}}
    return TrainState.of(arrays, state.updates, state.position)


def cut(ramp: Sequence[int] | None, examples_seen: int) -> float:
    """The part of the momentum, from 0 to 1, that an update is to drop; `ramp`: (begin, length) in examples."""
    if ramp is None:
        return 0.0
    begin, length = ramp
    return min(max(1.0 - (examples_seen - begin) / length, 0.0), 1.0)
