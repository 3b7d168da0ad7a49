"""An optimizer and a learning-rate schedule, as somebody would add them: a function each."""

from __future__ import annotations

from collections.abc import Callable

import optax


def clipped_momentum(momentum: float) -> optax.GradientTransformation:
    """A chain, whose state is a tuple."""
    return optax.chain(optax.clip(1.0), optax.scale_by_schedule(lambda count: 1.0), optax.trace(decay=momentum))


def linear(learning_rate: float, num_epochs: float, examples_per_epoch: int) -> Callable[[int], float]:
    """To a tenth of it at the end."""
    return lambda seen: learning_rate * (1 - 0.9 * min(seen / (num_epochs * examples_per_epoch), 1.0))
