"""Synchronous data parallelism: the same state on every replica."""

from jaxdist.knobs import Knob
from jaxdist.strategies.knobs import ACCUMULATE, FUSION_MEGABYTES, SYNC_BATCH_NORM
from jaxdist.strategies.spec import StrategySpec

SPEC = StrategySpec(
    name="allreduce",
    knobs=(
        Knob(
            "strategy.spmd",
            "shard_map",
            "shard_map | jit | pmap",
            choices="jaxdist.strategies.data_parallel.setup:SPELLINGS",
        ),
        ACCUMULATE,
        FUSION_MEGABYTES,
        SYNC_BATCH_NORM,
    ),
    check="jaxdist.strategies.data_parallel.setup:check",
    build="jaxdist.strategies.data_parallel.setup:build",
)
