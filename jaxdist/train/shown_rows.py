"""The rows of a run, shown to whoever asks for their newest numbers: this process's metrics for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from jaxdist.train.callbacks import Callback, Row, RunView

_PLACE = ("updates", "examples_seen", "epoch")


class ShownRows(Callback):
    """Loss and metrics are `train_...` or `validation_...`; everything else is called as in the rows.

    Args:
      show: takes {name: number}. If it fails, it is asked no more, and training goes on.
    """

    def __init__(self, show: Callable[[Mapping[str, Any]], None]) -> None:
        self._show: Callable[[Mapping[str, Any]], None] | None = show

    def start(self, run: RunView) -> None:
        self._tell({key: getattr(run, key) for key in _PLACE})

    def logged(self, run: RunView, row: Row) -> None:
        self._tell({f"train_{key}" if key in run.metrics else key: value for key, value in row.items()})

    def evaluated(self, run: RunView, row: Row) -> None:
        # Its place may be an earlier one: an evaluator's comes late.
        found = {k: value for k, value in row.items() if k not in _PLACE and isinstance(value, int | float)}
        self._tell({key if key.startswith("holdout_") else f"validation_{key}": found[key] for key in found})

    def _tell(self, numbers: Mapping[str, Any]) -> None:
        if self._show is None:
            return
        try:
            self._show(numbers)
        except Exception as e:
            self._show = None
            logging.warning("The metrics are shown no more (training goes on): %s: %s", type(e).__name__, e)
