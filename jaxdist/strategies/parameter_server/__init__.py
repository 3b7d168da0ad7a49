"""Workers that share parameters through servers, as far apart as a staleness bound lets them drift."""

from __future__ import annotations

from jaxdist.errors import UsageError
from jaxdist.knobs import Knob, Values, above_zero
from jaxdist.strategies.knobs import ACCUMULATE
from jaxdist.strategies.spec import Settings, StrategySpec


def is_asynchronous(settings: Settings) -> bool:
    """Whether each push is an update of its own under these settings."""
    return settings["staleness_policy"] != "fixed" or settings["max_staleness"] != 0


def _validate(values: Values) -> None:
    """Raises `UsageError` for a range that is none."""
    low, high = (*values["strategy.staleness_range"], 0, 0)[:2]
    if values["strategy.staleness_policy"] == "dynamic" and not 1 <= low <= high:
        raise UsageError(
            f"strategy.staleness_range={values['strategy.staleness_range']} must be (low, high) with 1 <= low <= high."
        )


SPEC = StrategySpec(
    name="parameter_server",
    knobs=(
        ACCUMULATE,
        Knob(
            "strategy.max_staleness",
            -1,
            "How many steps a worker may be ahead of the slowest one. 0: synchronous rounds. -1: no bound.",
            lambda value: "" if value >= -1 else "-1 (unbounded), 0 (synchronous) or more",
        ),
        Knob(
            "strategy.staleness_policy",
            "fixed",
            "dynamic: the bound moves within staleness_range, by the pace of the workers.",
            choices=("fixed", "dynamic"),
        ),
        Knob("strategy.staleness_range", (3, 15), "dynamic: the lowest and the highest bound."),
        Knob(
            "strategy.scale_learning_rate",
            True,
            "Divides the learning rate by the number of workers where each push is an update of its own.",
        ),
        Knob(
            "strategy.overlap",
            False,
            "Pushes and pulls while the next gradient is computed. Hides the network and adds one step of staleness.",
        ),
        Knob(
            "strategy.nonfinite",
            "",
            "The older name of health.nonfinite, for every strategy, refuse being its skip. '': as that says.",
            choices=("", "refuse", "stop"),
        ),
        Knob(
            "strategy.lease_seconds", 10.0, "Servers drop a worker that they have not heard of for so long.", above_zero
        ),
        Knob(
            "strategy.snapshot_seconds",
            10.0,
            "Seconds between two snapshots of the servers. A restarted server goes on from the last one.",
            above_zero,
        ),
    ),
    check="jaxdist.strategies.parameter_server.setup:check",
    build="jaxdist.strategies.parameter_server.setup:build",
    observe="jaxdist.strategies.parameter_server.setup:observe",
    validate=_validate,
    needs_collectives=lambda settings, num_processes: False,
    fate_sharing=False,
    asynchronous=is_asynchronous,
)
