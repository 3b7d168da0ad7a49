"""When a run stops before its last epoch: the holdout's loss has not fallen for so many evaluations."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class EarlyStopping:
    """Stops after `patience` evaluations in a row without a lower loss; patience 0 never does."""

    patience: int
    best: float = float("inf")
    evaluations_since_best: int = 0

    @property
    def stopped(self) -> bool:
        return 0 < self.patience <= self.evaluations_since_best

    def should_stop(self, loss: float) -> bool:
        improved = loss < self.best
        self.best = min(self.best, loss)
        self.evaluations_since_best = 0 if improved else self.evaluations_since_best + 1
        return self.stopped
