"""Whether a run's numbers are of any use: the loss of every step, evaluations, what is saved, updates made at all.

    step      its loss is among the metrics that the host reads anyway: no collective and no transfer of its own
    row       the steps since the last row are judged; so a run ends within one interval of rows
    saving    every array is looked at on the host, by the thread that writes it
    end       at least one update was made

The policy is `health.nonfinite`: `stop` ends the run with exit code 1, so that the newest checkpoint stays good; `warn`
says it once for each kind and goes on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdist.errors import Unhealthy


class Health:
    """Judges what one run's loop reads.

    Args:
      policy: 'stop' or 'warn'.
      newest: words for the newest checkpoint there is.
    """

    def __init__(self, policy: str, newest: Callable[[], str]) -> None:
        self._policy, self._newest = policy, newest
        self._said: set[str] = set()

    def trained(self, row: Mapping[str, Any], not_finite: tuple[float, int] | None) -> None:
        """After a train row; `not_finite`: of the first such step since the last row, its loss and the examples seen.

        Raises:
          Unhealthy: under 'stop'.
        """
        if not_finite is not None:
            loss, seen = not_finite
            since = f"since example {seen} of the stream (update {row['updates']} or before)"
            self._found("loss", f"The training loss is {loss} {since}")

    def evaluated(self, row: Mapping[str, Any]) -> None:
        """After an evaluation; raises as `trained`."""
        for name in ("loss", "holdout_loss"):
            if not math.isfinite(row.get(name, 0.0)):
                self._found(f"evaluation {name}", f"The evaluation of update {row['updates']} has {name} {row[name]}")

    def array(self, name: str, array: np.ndarray) -> None:
        """Before an array is saved; raises as `trained`."""
        if array.dtype.kind not in "biu" and not np.isfinite(array).all():
            count = int(np.size(array) - np.isfinite(array).sum())
            self._found(
                "array", f"{name} has {count} of {array.size} numbers that are not finite, and is not saved as good"
            )

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
        if self._policy == "stop":
            raise Unhealthy(
                f"{what}. {self._newest()} Look at the data, lower optim.learning_rate or clip gradients; "
                "health.nonfinite=warn goes on all the same."
            )
        if kind not in self._said:
            self._said.add(kind)
            logging.warning("%s. health.nonfinite=warn: the run goes on; this is not said again.", what)
