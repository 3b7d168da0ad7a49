"""Synchronous data parallelism: the same state on every replica."""

from jaxdist.knobs import Knob
from jaxdist.strategies.knobs import ACCUMULATE, FUSION_MEGABYTES, SYNC_BATCH_NORM
from jaxdist.strategies.spec import StrategySpec

SPELLINGS = {
    "shard_map": "jaxdist.strategies.data_parallel.allreduce:AllReduce",
    "jit": "jaxdist.strategies.sharded.gspmd:ModelParallel",
    "pmap": "jaxdist.strategies.data_parallel.pmap:AllReducePmap",
}

SPEC = StrategySpec(
    name="allreduce",
    knobs=(
        Knob(
            "strategy.spmd",
            "shard_map",
            "How the step is written in JAX.",
            choices=tuple(SPELLINGS),
        ),
        ACCUMULATE,
        FUSION_MEGABYTES,
        SYNC_BATCH_NORM,
    ),
    check="jaxdist.strategies.data_parallel.setup:check",
    build="jaxdist.strategies.data_parallel.setup:build",
)
