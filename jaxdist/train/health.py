"""Whether a run's numbers are of any use: the loss of every step, evaluations, what is saved, updates made at all.

    step      its loss is among the metrics that the host reads anyway: no collective and no transfer of its own
    row       the steps since the last row are judged; so a run ends within one interval of rows
    saving    every array is looked at on the host, by the thread that writes it
    end       at least one update was made

The policy is `health.nonfinite`: `stop` ends the run with exit code 1, so that the newest checkpoint stays good; `skip`
leaves such updates out of the parameters and goes on, and ends the run where what is left is not finite all the same;
`warn` says it once for each kind and goes on.

A run may be of no use though every number is finite. That is said, and ends nothing: a loss that leaps, an accuracy
that stays that of chance, parameters that do not change.
"""

from __future__ import annotations

import collections
import logging
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash

from jaxdist.errors import Unhealthy

REMEMBERED_ROWS = 20
ROWS_TO_JUDGE_BY = 5
LEAP = 3.0  # times the median of the rows before
CHANCE = 1.25  # times 1 / classes: an accuracy of not even this is that of guessing


class Health:
    """Judges what one run's loop reads.

    Args:
      policy: 'stop', 'skip' or 'warn'.
      newest: words for the newest checkpoint there is.
      chance: the accuracy of guessing; 0: there is none.
    """

    def __init__(self, policy: str, newest: Callable[[], str], chance: float = 0.0) -> None:
        self._policy, self._newest, self._chance = policy, newest, chance
        self._said: set[str] = set()
        self._losses: collections.deque[float] = collections.deque(maxlen=REMEMBERED_ROWS)
        self._digests: dict[str, str] = {}  # of the parameters that are being saved
        self._saved: tuple[int, dict[str, str]] | None = None  # update and digests of the last checkpoint

    def trained(self, row: Mapping[str, Any], not_finite: tuple[float, int] | None) -> None:
        """After a train row; `not_finite`: of the first such step since the last row, its loss and the examples seen.

        Raises:
          Unhealthy: under 'stop'.
        """
        if not_finite is not None:
            loss, seen = not_finite
            since = f"since example {seen} of the stream (update {row['updates']} or before)"
            self._found("loss", f"The training loss is {loss} {since}")
        if skipped := row.get("updates_skipped", 0):
            where = f"in the interval that ends with update {row['updates']}"
            self._say("skipped", f"{skipped} updates {where} were left out: their loss or gradient is not finite")
        loss = row.get("loss", math.nan)
        if not math.isfinite(loss):
            return
        if len(self._losses) >= ROWS_TO_JUDGE_BY:
            usual = statistics.median(self._losses)
            if loss > LEAP * max(usual, 0.1):
                self._say(
                    "leap", f"The training loss leapt from about {usual:.3g} to {loss:.3g} by update {row['updates']}"
                )
        self._losses.append(loss)

    def _looks_dead(self, row: Mapping[str, Any]) -> None:
        """After an evaluation of a whole epoch or more."""
        accuracy = row.get("accuracy", math.nan)
        if row.get("epoch", 0.0) >= 1.0 and accuracy < CHANCE * self._chance:
            what = f"After {row['epoch']:.1f} epochs the accuracy is {100 * accuracy:.1f} %"
            self._say(
                "chance", f"{what}, that of guessing among {round(1 / self._chance)} classes: is anything learnt?"
            )

    def evaluated(self, row: Mapping[str, Any]) -> None:
        """After an evaluation; raises as `trained`."""
        for name in ("loss", "holdout_loss"):
            if not math.isfinite(row.get(name, 0.0)):
                self._found(f"evaluation {name}", f"The evaluation of update {row['updates']} has {name} {row[name]}")
        self._looks_dead(row)

    def array(self, name: str, array: np.ndarray) -> None:
        """Before an array is saved; raises as `trained`."""
        if array.dtype.kind not in "biu" and not np.isfinite(array).all():
            count = int(np.size(array) - np.isfinite(array).sum())
            self._found(
                "array", f"{name} has {count} of {array.size} numbers that are not finite, and is not saved as good"
            )
        if name.startswith("params/"):
            self._digests[name] = xxhash.xxh3_64_hexdigest(array.tobytes())

    def saved(self, updates: int) -> None:
        """After the last array of a checkpoint, by the thread that writes it."""
        before, self._saved, self._digests = self._saved, (updates, self._digests), {}
        if before is not None and before[0] < updates and before[1] == self._saved[1] and before[1]:
            where = f"from update {before[0]} to {updates}"
            self._say("unchanged", f"No parameter has changed {where}: the gradients or the learning rate are 0")

    def ended(self, updates: int) -> None:
        """Before the run is called complete.

        Raises:
          Unhealthy: it has made no update, under any policy.
        """
        if not updates:
            raise Unhealthy(
                "The run is over and has made no update: every gradient was refused (they were not finite). Look at "
                "the data and lower optim.learning_rate."
            )

    def _found(self, kind: str, what: str) -> None:
        if self._policy != "warn":
            raise Unhealthy(
                f"{what}. {self._newest()} Look at the data, lower optim.learning_rate or clip gradients; "
                "health.nonfinite=warn goes on all the same."
            )
        self._say(kind, f"{what}. health.nonfinite=warn")

    def _say(self, kind: str, what: str) -> None:
        """Once for each kind."""
        if kind not in self._said:
            self._said.add(kind)
            logging.warning("%s; the run goes on, and this is not said again.", what)
