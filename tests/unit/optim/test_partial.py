"""Which optimizers can update parts of a model apart: elements, blocks, or neither."""

from __future__ import annotations

import optax
import pytest
from helpers.processes import long
from helpers.three_layers import MASKED, kernels

from jaxdist.optim import optimizers, partial
from jaxdist.optim.optimizers import Optimizer

BOTH, BLOCKWISE, NEITHER = (True, True), (False, True), (False, False)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (optax.trace(0.9), BOTH),
        (optax.scale_by_adadelta(), BOTH),
        (optax.chain(optax.clip(1.0), optax.trace(0.9)), BOTH),
        (optax.scale_by_factored_rms(), BLOCKWISE),  # adafactor
        (optax.apply_if_finite(optax.trace(0.9), 3), NEITHER),
        long(optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()), BLOCKWISE),  # lamb
        long(optax.clip_by_global_norm(1.0), NEITHER),
        long(optax.scale_by_adam(), BOTH),
        long(optax.scale_by_rss(), BOTH),
        long(optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(1e-2, mask=kernels)), BOTH),  # adamw
        long(optax.scale_by_lion(), BOTH),
        long(optax.scale_by_rms(), BOTH),
        long(MASKED, BOTH),
        long(optax.adaptive_grad_clip(0.01), BLOCKWISE),
        long(optax.centralize(), BLOCKWISE),
        long(optax.chain(optax.clip_by_global_norm(1e3), optax.trace(0.9)), NEITHER),
        long(optax.add_noise(1e-4, 0.5, 0), NEITHER),
        long(optax.partition({"a": optax.trace(0.9)}, {"stem": "a"}), NEITHER),
    ],
    ids=lambda value: None,
)
def test_what_can_be_updated_apart(rule, expected):
    optimizer = Optimizer(rule)
    for check, passes, words in zip(
        (partial.check_elementwise, partial.check_blockwise), expected, ("elementwise", "blockwise"), strict=True
    ):
        if passes:
            check(optimizer)
            continue
        with pytest.raises(ValueError, match=f"not {words}.*(differs by|is .* in parts|cannot be applied).*sgd, ada"):
            check(optimizer)


def test_weight_decay_of_kernels_is_elementwise():
    partial.check_elementwise(optimizers.build("sgd", weight_decay=1e-2))
