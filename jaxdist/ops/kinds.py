"""The kinds of operators, in the words of profiles. A program's metadata carries them, as `jax.named_scope`s.

    with kind(CONVOLUTION_FORWARD):
        y = jax.lax.conv_general_dilated(...)

They change no number and no program, only what a profile can say of it. A model of one's own may use them too; what it
leaves unnamed is told by JAX's own names.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax

CONVOLUTION_FORWARD = "convolution forward"
CONVOLUTION_INPUT_GRADIENT = "convolution input gradient"
CONVOLUTION_KERNEL_GRADIENT = "convolution kernel gradient"
MATRIX_PRODUCT = "matrix product"
BATCH_NORM_FORWARD = "BatchNorm forward"
BATCH_NORM_BACKWARD = "BatchNorm backward"
RELU = "ReLU"
DROPOUT = "dropout"
POOLING = "pooling"
LOSS = "loss"
REGULARISATION = "weight penalty"
OPTIMIZER_UPDATE = "optimizer update"

KINDS = (
    CONVOLUTION_FORWARD,
    CONVOLUTION_INPUT_GRADIENT,
    CONVOLUTION_KERNEL_GRADIENT,
    MATRIX_PRODUCT,
    BATCH_NORM_FORWARD,
    BATCH_NORM_BACKWARD,
    RELU,
    DROPOUT,
    POOLING,
    LOSS,
    REGULARISATION,
    OPTIMIZER_UPDATE,
)


def kind(name: str) -> AbstractContextManager[None]:
    """What is traced inside belongs to this kind; one of `KINDS`."""
    assert name in KINDS, name
    return jax.named_scope(name)
