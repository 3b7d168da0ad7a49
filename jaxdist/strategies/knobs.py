"""Knobs that mean something to several strategies, or to all."""

from jaxdist.knobs import Knob, above_zero, at_least_zero

MEMORY_LIMIT = Knob(
    "strategy.memory_limit",
    0.0,
    "GB of model state and activations that a process may need. A run that needs more is refused. 0: no limit.",
    at_least_zero,
)
ACCUMULATE = Knob(
    "strategy.accumulate",
    1,
    "Each device takes its batch in so many parts and adds up their gradients. BatchNorm sees the parts.",
    above_zero,
)
FUSION_MEGABYTES = Knob(
    "strategy.fusion_megabytes",
    64.0,
    "Largest buffer of one all-reduce, in MB. 0: one all-reduce for each array.",
    at_least_zero,
)
SYNC_BATCH_NORM = Knob(
    "strategy.sync_batch_norm",
    None,
    "BatchNorm takes its statistics over the global batch. Unset: True with spmd=jit and model_parallel, else False.",
    unset=bool,
    only_where_it_counts=True,
)
