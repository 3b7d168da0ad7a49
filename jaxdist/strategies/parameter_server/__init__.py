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
            "-1 unbounded, 0 synchronous rounds, s > 0 a worker's clock lead is at most s",
            lambda value: "" if value >= -1 else "-1 (unbounded), 0 (synchronous) or more",
        ),
        Knob(
            "strategy.staleness_policy",
            "fixed",
            "dynamic: the bound moves in staleness_range with the workers' pace",
            choices=("fixed", "dynamic"),
        ),
        Knob("strategy.staleness_range", (3, 15), "dynamic: the lowest and the highest bound"),
        Knob(
            "strategy.scale_learning_rate",
            True,
            "divide it by the number of workers, where each push is an update of its own",
        ),
        Knob(
            "strategy.overlap",
            False,
            "push and pull while computing: hides the network, at one more step of staleness",
        ),
        Knob(
            "strategy.nonfinite",
            "refuse",
            "a gradient with NaN or Inf: refuse (drop and count it) | stop",
            choices=("refuse", "stop"),
        ),
        Knob("strategy.lease_seconds", 10.0, "a worker not heard for so long is dropped", above_zero),
        Knob(
            "strategy.snapshot_seconds",
            10.0,
            "between the servers' own snapshots, from which a restarted one goes on",
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
