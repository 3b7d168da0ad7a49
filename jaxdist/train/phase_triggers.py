"""When to hand over to the next phase, decided while the run goes on.

`plateau` looks at the training loss (or another metric) of the rows of `metrics.jsonl`, averaged over windows:

    loss   \\
            \\__ older window __
                                 \\__ newer window __   improvement = 1 - newer / older
                                                    now

and ends the phase once a window is less than `switch_threshold` below the one before it. Both windows lie after the
last change of the learning rate; and while the first scheduled drop of it is still to come the rule waits, unless
`switch_after_drop` is off: asynchronous updates are noise in proportion to the learning rate, and what is lost to them
before the drop is not regained. The test set has no part in it. What it looked at is in the rows, what it concluded in
the event `switch_decided`: `replay` gives the same answer.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxdist.errors import UsageError, nearest
from jaxdist.task import Objective
from jaxdist.task.objectives.objective import LOSS


@dataclasses.dataclass
class Plateau:
    """Attributes:
    window_examples: length of a window.
    threshold: improvement below which the loss counts as no longer falling.
    rate: examples_seen -> learning rate; None: it does not change.
    waits_above: rows at this learning rate and above do not count.
    seen: (examples_seen, mean since the row before) of the phase's rows.
    begun: examples_seen at the beginning of the phase.
    metric: what of a row it looks at: the loss, or a metric above 0.
    higher_is_better: else the lower.
    """

    window_examples: float
    threshold: float
    rate: Callable[[int], float] | None = None
    waits_above: float = math.inf
    begun: int = 0
    seen: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    metric: str = "loss"
    higher_is_better: bool = False

    def begin(self, examples_seen: int) -> None:
        """A phase begins; what was seen before does not count."""
        self.begun, self.seen = examples_seen, []

    def look(self, row: Mapping[str, Any]) -> dict[str, float] | None:
        """Takes a train row; the reasons to end the phase, or None to go on."""
        now = row["examples_seen"]
        value = row.get(self.metric, math.nan)
        if not math.isfinite(value) or value <= 0:  # nothing to divide by, or nothing was trained on
            return None
        before = self.seen[-1][0] if self.seen else self.begun
        rate = self.rate(now) if self.rate is not None else 0.0
        if self.rate is not None and (rate >= self.waits_above or rate != self.rate(before)):
            self.begin(now)
            return None
        self.seen.append((now, value))
        newest, middle, oldest = (now - k * self.window_examples for k in range(3))
        if oldest < self.begun:
            return None
        older, newer = self._mean(oldest, middle), self._mean(middle, newest)
        if older is None or newer is None:
            words = "No train row in a window of %d examples: raise strategy.switch_window_epochs, or log more often."
            logging.warning(words, self.window_examples)
            return None
        improvement = newer / older - 1 if self.higher_is_better else 1 - newer / older
        if improvement >= self.threshold:
            return None
        found = {f"older_{self.metric}": older, f"newer_{self.metric}": newer, "improvement": improvement}
        return {k: round(v, 6) for k, v in found.items()} | {
            "threshold": self.threshold,
            "window_examples": self.window_examples,
        }

    def _mean(self, after: float, until: float) -> float | None:
        """Mean loss of the rows in (after, until], each weighted by the examples since the row before."""
        total = weight = 0.0
        before = self.begun
        for now, loss in self.seen:
            if after < now <= until:
                total, weight = total + loss * (now - before), weight + (now - before)
            before = now
        return total / weight if weight else None

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self.begun, "seen": self.seen, "metric": self.metric}

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        self.begun, self.seen = stored["begun"], [(int(n), float(value)) for n, value in stored["seen"]]
        if stored.get("metric", "loss") != self.metric:  # the run was started again with another
            self.seen = []


def build(
    settings: Mapping[str, Any],
    epoch_examples: int,
    rate: Callable[[int], float],
    run_examples: int,
    objective: Objective,
) -> Plateau | None:
    """The rule that `config.strategy` asks for; None: phases end where the schedule says.

    Args:
      rate: examples_seen -> learning rate.
      run_examples: of the whole run.
      objective: whose metric it looks at.

    Raises:
      UsageError: there is no such metric of training rows, or the learning rate is nowhere the same for two windows, so
        that the rule could never decide.
    """
    if not settings["switch_when"]:
        return None
    drops = settings["switch_after_drop"] and rate(run_examples - 1) < rate(0)
    window = settings["switch_window_epochs"] * epoch_examples
    _check_rate(rate, window, run_examples, epoch_examples)
    name, known = settings["switch_metric"], {m.name: m for m in (LOSS, *objective.training_metrics)}
    if name not in known or known[name].higher_is_better is None:
        raise UsageError(
            f"strategy.switch_metric={name!r} is nothing that the rule can look at{nearest(name, known)}; of training "
            f"rows there are {', '.join(n for n, m in known.items() if m.higher_is_better is not None)}."
        )
    waits_above = rate(0) if drops else math.inf
    higher = bool(known[name].higher_is_better)
    return Plateau(window, settings["switch_threshold"], rate, waits_above, metric=name, higher_is_better=higher)


def _check_rate(rate: Callable[[int], float], window: float, run_examples: int, epoch_examples: int) -> None:
    """Looks at the rate 64 times a window, and at most 100,000 times."""
    step = max(int(window / 64), run_examples // 100_000, 1)
    longest = begun = 0
    last = rate(0)
    for now in [*range(step, run_examples, step), run_examples]:
        new = rate(now)
        if new != last:
            begun, last = now, new
        longest = max(longest, now - begun)
    if longest + 2 * step >= 2 * window:  # it may be a step longer at both ends
        return
    if longest == run_examples:
        words = (
            "The run of %d examples is shorter than two windows of %g: strategy.switch_when='plateau' decides nothing."
        )
        logging.warning(words, run_examples, window)
        return
    held = f"holds one for {longest} at the longest" if longest > step else "holds none, it changes all the time"
    raise UsageError(
        f"strategy.switch_when='plateau' compares two windows of {window:g} examples "
        f"(strategy.switch_window_epochs={window / epoch_examples:g}) at one learning rate, and in this run of "
        f"{run_examples} examples the schedule {held}: give the phases fractions in strategy.schedule instead of "
        "strategy.switch_when, or shorter windows."
    )


def replay(rows: Iterable[Mapping[str, Any]], rule: Plateau) -> int | None:
    """examples_seen at which `rule` would have ended a phase that has these train rows; None: never."""
    return next((row["examples_seen"] for row in rows if rule.look(row) is not None), None)
