"""The arrays of a shard at one version, and how they leave it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxdist.parallel.flat_layout import FlatShard

Vector = np.ndarray


@dataclasses.dataclass(frozen=True)
class Values:
    """The arrays of a shard at one version. `state` is the rule's: {slot: {group: vector} or one number}."""

    version: int
    params: jax.Array
    stats: jax.Array
    state: dict[str, Any]
    flat_shard: FlatShard

    def flat(self, what: str) -> Vector:
        """'params', 'stats' or 'slot/NAME' as one vector on the host (a number as a vector of one).

        In a slot's, zeros stand for the groups that it lacks.
        """
        if what in ("params", "stats"):
            return np.asarray(getattr(self, what))
        slot = self.state[what.removeprefix("slot/")]
        if not isinstance(slot, dict):
            return np.ravel(np.asarray(slot))
        vector = np.zeros((self.flat_shard.num_params,), self.flat_shard.dtype)
        for group, part in self.flat_shard.split(vector).items():
            if group in slot:
                part[:] = np.asarray(slot[group])
        return vector


def both(values: Values) -> bytes:
    """Parameters, then statistics: what travels in a pull."""
    return b"".join((values.flat("params").data, values.flat("stats").data))


def contents(values: Values) -> dict[str, Vector]:
    """Everything that a snapshot keeps, by name."""
    return {what: values.flat(what) for what in ("params", "stats", *(f"slot/{s}" for s in values.state))}
