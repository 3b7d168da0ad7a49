"""State divided over a mesh of devices: by rules (GSPMD), or everything in equal shares (ZeRO)."""

from jaxdist.knobs import Knob, at_least_zero
from jaxdist.strategies.knobs import FUSION_MEGABYTES, SYNC_BATCH_NORM
from jaxdist.strategies.spec import StrategySpec

LAYOUTS = {
    "none": "jaxdist.strategies.sharded.gspmd:ModelParallel",
    "fsdp": "jaxdist.strategies.sharded.zero:FullySharded",
    "zero1": "jaxdist.strategies.sharded.zero:ShardedOptimizer",
}

SPEC = StrategySpec(
    name="model_parallel",
    knobs=(
        Knob("strategy.mesh", "", "devices of all processes by axis, 'data:2,model:2'; '' = all on data"),
        Knob(
            "strategy.rules",
            "family",
            "what lies along the axis model: the model family's own | '' nothing | 'PATTERN = PARTITION; ...', as in "
            "'conv1/kernel = -,-,-,model'",
        ),
        Knob(
            "strategy.shard_params",
            "none",
            "over data: none | fsdp (all state) | zero1 (the optimizer's)",
            choices=tuple(LAYOUTS),
            only_where_it_counts=True,
        ),
        Knob(
            "strategy.shard_threshold",
            1024,
            "fsdp and zero1: tensors of fewer elements are whole everywhere",
            at_least_zero,
        ),
        SYNC_BATCH_NORM,
        FUSION_MEGABYTES,
    ),
    check="jaxdist.strategies.sharded.setup:check",
    build="jaxdist.strategies.sharded.setup:build",
)
