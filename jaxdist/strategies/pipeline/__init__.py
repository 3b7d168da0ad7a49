"""A model in stages, through which microbatches flow."""

from jaxdist.knobs import Knob, above_zero, at_least_zero
from jaxdist.strategies.pipeline import placement
from jaxdist.strategies.spec import StrategySpec

SPEC = StrategySpec(
    name="pipeline",
    knobs=(
        Knob(
            "strategy.num_stages",
            0,
            "Stages of the pipeline. 0: the length of balance, or the processes of each replica.",
            at_least_zero,
        ),
        Knob(
            "strategy.replicas",
            0,
            "Copies of the whole pipeline, whose gradients are averaged. 0: as many as the processes make.",
            at_least_zero,
        ),
        Knob(
            "strategy.num_microbatches",
            4,
            "Parts of each replica's share of a batch. BatchNorm sees the parts.",
            above_zero,
        ),
        Knob(
            "strategy.pipeline_schedule",
            "gpipe",
            "Order of the microbatches. 1f1b keeps the activations of fewer microbatches.",
            choices="jaxdist.parallel.schedules:SCHEDULES_OF",
        ),
        Knob("strategy.balance", (), "Blocks of each stage, as in (6, 16). (): chosen by balance_by."),
        Knob(
            "strategy.balance_by",
            "time",
            "time: measure each block first. bytes: count parameters and activations.",
            choices=("time", "bytes"),
        ),
        Knob(
            "strategy.branch_parallel",
            False,
            "Branches of the model on different processes, side by side, where measured times say is best.",
            only_where_it_counts=True,
        ),
        Knob("strategy.remat", False, "Computes the forward pass again in the backward pass. Less memory, more time."),
    ),
    check="jaxdist.strategies.pipeline.setup:check",
    build="jaxdist.strategies.pipeline.setup:build",
    needs_collectives=placement.needs_collectives,
    per_worker_data=lambda settings, num_processes, num_devices: num_processes == 1,
)
