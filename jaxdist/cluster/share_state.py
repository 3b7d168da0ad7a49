"""The chief's canonical state on every process: it serves the arrays, the others fetch them when they ask for them.

chief                                       others
  serve(state's arrays)
  gather(name, description)       <---->      gather(name, None)
                                  <-----      np.asarray(array): chunk by chunk
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jaxdist.state import LazyArray, TrainState, state_of
from jaxdist.state.train_state import stored_arrays


class Sharing(Protocol):
    """What is needed of a `ProcessGroup`; its docstrings have the details."""

    @property
    def is_chief(self) -> bool: ...

    @property
    def connect_timeout(self) -> float: ...

    def gather(self, name: str, value: Any, timeout: float | None = None) -> list[Any]: ...

    def serve_arrays(self, version: int, arrays: Mapping[str, Any]) -> None: ...

    def served_array(self, version: int, name: str, shape: tuple[int, ...], dtype: np.dtype) -> LazyArray: ...


def share(group: Sharing, state: TrainState | None, name: str) -> TrainState:
    """The chief's canonical state, on every process; `state` is None on those that have none. Collective; blocks until
    all have come, not for the arrays, which the others fetch when they ask for them.

    Raises:
      PeerError: another process failed or was lost.
    """
    description = None
    if state is not None and group.is_chief:
        counts = {"updates": state.updates, "examples_seen": state.examples_seen, "pending": state.pending}
        description = serve(group, stored_arrays(state), counts)
    description = gather_description(group, name, description)
    if group.is_chief:
        assert state is not None
        return state
    return served_state(group, description)


def serve(group: Sharing, arrays: Mapping[str, Any], progress: dict[str, Any]) -> dict[str, Any]:
    """On the chief: serves a state's arrays; what the others need to know to fetch them. Does not block."""
    group.serve_arrays(progress["updates"], arrays)
    return {"progress": progress, "arrays": {name: describe(array) for name, array in arrays.items()}}


def gather_description(group: Sharing, name: str, description: dict[str, Any] | None) -> Any:
    """The chief's description, on every process. Collective; blocks; raises what `gather` does."""
    return group.gather(name, description, group.connect_timeout)[0]


def served_state(group: Sharing, description: Mapping[str, Any]) -> TrainState:
    """The state whose arrays the chief serves. Does not block."""
    progress = description["progress"]
    arrays = {
        name: group.served_array(progress["updates"], name, tuple(shape), np.dtype(dtype))
        for name, (dtype, shape) in description["arrays"].items()
    }
    return state_of(arrays, progress)


def describe(array: Any) -> list[Any]:
    """[dtype, shape], as JSON has them."""
    return [str(np.dtype(array.dtype)), list(array.shape)]
