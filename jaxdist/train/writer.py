"""Where a run's rows and summary are written."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from jaxdist.errors import NotSaved


class Writer:
    """Writes the run directory's `metrics.jsonl`, `summary.json` and TensorBoard events.

    Only the chief writes (`enabled`); on other processes every method does nothing.
    """

    def __init__(self, workdir: str, enabled: bool, started: float) -> None:
        """`started`: `time.monotonic()` at the beginning of the run, earlier parts of it included."""
        self._started = started
        self._folder = pathlib.Path(workdir)
        self._lines: TextIO | None = None
        self._lock = threading.Lock()
        self._said = False
        if enabled:
            import tensorboardX  # here: one process writes, and it imports PyTorch, where there is one, for seconds

            _end_with_a_whole_line(self._folder / "metrics.jsonl")
            self._lines = open(  # noqa: SIM115 - closed by close()
                self._folder / "metrics.jsonl", "a"
            )
            self._events = tensorboardX.SummaryWriter(str(self._folder / "tensorboard"), flush_secs=30)

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def write(self, kind: str, **row: Any) -> None:
        """Appends one line; numbers of train and eval rows go to TensorBoard too.

        Raises:
          NotSaved: the disk does not take it.
        """
        if self._lines is None:
            return
        line = {"kind": kind, "time": round(self.elapsed(), 3)} | row
        with self._lock:  # the checkpoint thread says when it has saved
            text = json.dumps(_finite(line), allow_nan=False) + "\n"
            with _said_where(self._folder / "metrics.jsonl"):
                self._lines.write(text)
                self._lines.flush()
        if kind != "event" and self._tensorboard_lives():
            for name, value in row.items():
                if isinstance(value, int | float) and name != "updates":
                    self._events.add_scalar(f"{kind}/{name}", value, row["updates"])
                elif isinstance(value, list) and len(value) <= 100 and all(isinstance(v, int | float) for v in value):
                    for i, one in enumerate(value):  # of each class, say
                        self._events.add_scalar(f"{kind}/{name}/{i}", one, row["updates"])

    def _tensorboard_lives(self) -> bool:
        """Its thread ends at the first error, on a full disk, and whoever gives it more then waits for ever."""
        thread = getattr(getattr(getattr(self._events, "file_writer", None), "event_writer", None), "_worker", None)
        lives = thread is None or thread.is_alive()
        if not lives and not self._said:
            self._said = True
            logging.warning("TensorBoard's events in %s cannot be written any more.", self._folder / "tensorboard")
        return lives

    def summarise(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json` in one piece."""
        if self._lines is None:
            return
        part = self._folder / "summary.json.tmp"
        with _said_where(self._folder / "summary.json"):
            part.write_text(json.dumps(_finite(summary), indent=2, allow_nan=False) + "\n")
            os.replace(part, self._folder / "summary.json")

    def close(self) -> None:
        if self._lines is not None:
            with contextlib.suppress(OSError):  # what is left in its buffer; the run has its reason by now
                self._lines.close()
            if self._tensorboard_lives():
                with contextlib.suppress(OSError):
                    self._events.close()
            self._lines = None


@contextlib.contextmanager
def _said_where(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise NotSaved(f"{path} cannot be written ({e.strerror or e}): see to the disk, and start again.") from e


def _finite(value: Any) -> Any:
    """What JSON can say: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _end_with_a_whole_line(path: pathlib.Path) -> None:
    """Cuts off what a killed run left of an unfinished line."""
    if path.exists():
        text = path.read_bytes()
        if text and not text.endswith(b"\n"):
            with open(path, "r+b") as f:
                f.truncate(text.rfind(b"\n") + 1)
