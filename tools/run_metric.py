"""Which metric a comparison of runs is about: accuracy, or of another objective the first that its evaluations have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from run_reader import Run

HIGHER_IS_BETTER = ("accuracy", "top5_accuracy", "average_accuracy", "kappa")
_NO_METRICS = {"kind", "time", "updates", "examples_seen", "epoch", "loss"}


@dataclasses.dataclass(frozen=True)
class Metric:
    """Attributes:
    name: in rows; in the summary after `train_` and `validation_`.
    factor, unit: of what is shown.
    higher_is_better: else the lower.
    """

    name: str
    factor: float
    unit: str
    higher_is_better: bool

    @classmethod
    def of(cls, name: str) -> Metric:
        shares = name.endswith("accuracy")
        return cls(name, 100.0 if shares else 1.0, ", %" if shares else "", name in HIGHER_IS_BETTER)

    @property
    def words(self) -> str:
        """As in 'accuracy, %'."""
        return self.name.replace("_", " ") + self.unit

    def text(self, value: float) -> str:
        return f"{100 * value:.2f}" if self.unit else f"{value:.4g}"

    def best(self, values: Sequence[float]) -> float:
        return max(values) if self.higher_is_better else min(values)

    def reaches(self, value: float | None, wanted: float) -> bool:
        return value is not None and (value >= wanted if self.higher_is_better else value <= wanted)


def metrics_of(runs: Sequence[Run]) -> list[Metric]:
    """Those that are one number, accuracy first; accuracy alone where there is no evaluation."""
    names: dict[str, None] = {}
    for run in runs:
        for row in run.evaluations[-1:]:
            names |= dict.fromkeys(
                key for key, value in row.items()
                if isinstance(value, int | float) and key not in _NO_METRICS and not key.startswith("holdout_")
            )  # fmt: skip
    ordered = sorted(names, key=lambda name: name != "accuracy") or ["accuracy"]
    return [Metric.of(name) for name in ordered]
