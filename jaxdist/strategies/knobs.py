"""Knobs that mean something to several strategies, or to all."""

from jaxdist.knobs import Knob, above_zero, at_least_zero

MEMORY_LIMIT = Knob(
    "strategy.memory_limit",
    0.0,
    "GB that a process may need for model and activations; more is refused; 0 = none",
    at_least_zero,
)
ACCUMULATE = Knob(
    "strategy.accumulate",
    1,
    "parts in which each device takes its batch; BatchNorm then sees the parts",
    above_zero,
)
FUSION_MEGABYTES = Knob(
    "strategy.fusion_megabytes",
    64.0,
    "largest buffer of one all-reduce; 0 = one all-reduce per array",
    at_least_zero,
)
SYNC_BATCH_NORM = Knob(
    "strategy.sync_batch_norm",
    None,
    "BatchNorm over the global batch; unset: False; True with jit and model_parallel",
    unset=bool,
)
