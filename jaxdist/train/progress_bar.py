"""Progress for a person at a terminal; logs have lines instead."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import tqdm


@contextlib.contextmanager
def progress_bar(enabled: bool, total: int, done: int) -> Iterator[tqdm.tqdm]:
    """A bar of examples on the chief's terminal; nothing elsewhere."""
    shown = enabled and sys.stderr.isatty()
    with tqdm.tqdm(total=total, initial=done, disable=not shown, unit="image", unit_scale=True) as bar:
        yield bar
