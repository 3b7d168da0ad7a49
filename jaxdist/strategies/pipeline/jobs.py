"""What the threads of stage workers were asked to do, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np


class Late(Mapping[str, np.ndarray]):
    """Metrics that are made when they are looked at, which waits for them."""

    def __init__(self, make: Callable[[], Mapping[str, np.ndarray]]) -> None:
        self._make = make

    def __getitem__(self, name: str) -> np.ndarray:
        return self._make()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())


def results_of(jobs: Sequence[Future[Any]]) -> list[Any]:
    """Of all; raises the first failure that is a cause and not a consequence of another."""
    errors = [e for job in jobs if (e := job.exception()) is not None]
    for e in errors:
        if e.__cause__ is None:
            raise e
    return [job.result() for job in jobs]
