"""What a block is told about the step it takes part in."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class Context(NamedTuple):
    """The second argument of every block's `__call__`.

    Attributes:
      train: static; True while training (batch statistics, dropout), False while evaluating.
      dropout_key: uint32 scalar, one per (seed, block); None where the caller promises that nothing is dropped.
      positions: uint32 [batch]: each example's position in the stream of training examples.
      dtype: of activations, for a block that makes them of integers; None: as it likes.
      batch_axis: name of the mesh axis over which BatchNorm takes its statistics; None: over this replica's batch.
    """

    train: bool
    dropout_key: jax.Array | None = None
    positions: jax.Array | None = None
    batch_axis: str | None = None
    dtype: Any = None
