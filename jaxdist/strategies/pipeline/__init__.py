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
            "0 = as many as there are entries in balance, or processes for each replica",
            at_least_zero,
        ),
        Knob(
            "strategy.replicas",
            0,
            "of the whole pipeline, gradients averaged; 0 = as many as the processes make",
            at_least_zero,
        ),
        Knob(
            "strategy.num_microbatches",
            4,
            "of each replica's share of a global batch; BatchNorm sees microbatches",
            above_zero,
        ),
        Knob(
            "strategy.pipeline_schedule",
            "gpipe",
            "gpipe | 1f1b: equally idle, 1f1b keeps fewer activations",
            choices="jaxdist.parallel.schedules:SCHEDULES",
        ),
        Knob("strategy.balance", (), "blocks of each stage; () = chosen"),
        Knob(
            "strategy.balance_by",
            "time",
            "how: time (each block is measured first) | bytes (parameters and activations)",
            choices=("time", "bytes"),
        ),
        Knob("strategy.remat", False, "compute the forward pass again in the backward pass: less memory, more time"),
    ),
    check="jaxdist.strategies.pipeline.setup:check",
    build="jaxdist.strategies.pipeline.setup:build",
    needs_collectives=placement.needs_collectives,
)
