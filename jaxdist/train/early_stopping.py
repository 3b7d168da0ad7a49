"""When a run stops before its last epoch: a metric of the holdout has not improved for so many evaluations."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class EarlyStopping:
    """Stops after `patience` evaluations in a row without a better value; patience 0 never does.

    Attributes:
      metric: whose values they are.
      higher_is_better: else the lower.
      best: negated where the higher is better.
    """

    patience: int
    best: float = float("inf")
    evaluations_since_best: int = 0
    higher_is_better: bool = False
    metric: str = "loss"

    @property
    def stopped(self) -> bool:
        return 0 < self.patience <= self.evaluations_since_best

    def should_stop(self, value: float) -> bool:
        found = -value if self.higher_is_better else value
        improved = found < self.best
        self.best = min(self.best, found)
        self.evaluations_since_best = 0 if improved else self.evaluations_since_best + 1
        return self.stopped
