"""State divided over a mesh of devices: by rules (GSPMD), or everything in equal shares (ZeRO)."""

from jaxdist.knobs import Knob, at_least_zero
from jaxdist.parallel import mesh
from jaxdist.strategies.knobs import FUSION_MEGABYTES, SYNC_BATCH_NORM
from jaxdist.strategies.spec import Settings, StrategySpec

LAYOUTS = {
    "none": "jaxdist.strategies.sharded.gspmd:ModelParallel",
    "fsdp": "jaxdist.strategies.sharded.zero:FullySharded",
    "zero1": "jaxdist.strategies.sharded.zero:ShardedOptimizer",
}


def _each_process_has_its_own_examples(settings: Settings, num_processes: int, num_devices: int) -> bool:
    """Whether no two processes lie on the same place of the data axis; those share their part of a batch."""
    try:
        found = mesh.shares(num_processes, mesh.parse(settings["mesh"], num_devices))
    except ValueError:  # it cannot be, and is refused for that
        return True
    return found == [(process, num_processes) for process in range(num_processes)]


SPEC = StrategySpec(
    name="model_parallel",
    knobs=(
        Knob(
            "strategy.mesh", "", "Devices of all processes by axis, as in 'data:2,model:2'. '': all on the axis data."
        ),
        Knob(
            "strategy.rules",
            "family",
            "Which dimension of which array lies on the axis model. family: the rules of the model "
            "family. '': none. Or your own: 'PATTERN = PARTITION; ...', as in 'conv1/kernel = "
            "-,-,-,model'.",
        ),
        Knob(
            "strategy.shard_params",
            "none",
            "Divides over the axis data. fsdp: parameters, gradients and optimizer state. zero1: "
            "optimizer state alone.",
            choices=tuple(LAYOUTS),
            only_where_it_counts=True,
        ),
        Knob(
            "strategy.shard_threshold",
            1024,
            "fsdp and zero1: every process keeps the whole of tensors with fewer elements.",
            at_least_zero,
        ),
        SYNC_BATCH_NORM,
        FUSION_MEGABYTES,
    ),
    check="jaxdist.strategies.sharded.setup:check",
    build="jaxdist.strategies.sharded.setup:build",
    per_worker_data=_each_process_has_its_own_examples,
)
