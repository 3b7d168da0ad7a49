"""The canonical state that a run begins with, on every process: initial, or from the chief's newest checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from jaxdist.checkpoint import checkpointer
from jaxdist.cluster.rendezvous import Peers
from jaxdist.errors import UsageError
from jaxdist.state.train_state import STRATEGY_STATE, stored_arrays
from jaxdist.state import LazyArray, TrainState, flatten
from jaxdist.task import Task


def restore(
    checkpoints: checkpointer.Checkpointer | None, task: Task, peers: Peers | None
) -> tuple[TrainState, dict[str, Any] | None]:
    """(canonical state, stored progress): from the newest whole checkpoint, or initial with None. Collective.

    Raises:
      UsageError: the checkpoint is of another model.
    """
    found = checkpoints.restore() if checkpoints is not None else None
    facts = None
    if found is not None:
        facts = {
            "progress": found.progress,
            "leaves": {n: [str(x.dtype), list(x.shape)] for n, x in found.leaves.items()},
        }
        if peers is not None and peers.chief is not None:
            peers.chief.serve_leaves({n: partial(_bytes_of, x) for n, x in found.leaves.items()})
    if peers is not None:
        facts = peers.gather("the restored checkpoint", facts)[0]
    initial = task.init()
    if facts is None:
        return initial, None
    _check_same_leaves(facts["leaves"], initial)
    if found is not None:
        return found.state, found.progress
    assert peers is not None
    return _fetched(peers, facts), facts["progress"]


def share(peers: Peers, state: TrainState | None, name: str) -> TrainState:
    """The chief's canonical state, on every process. Collective; on the others leaves are fetched when asked for."""
    facts = None
    if state is not None and peers.chief is not None:
        leaves = stored_arrays(state)
        counts = {"updates": state.updates, "examples_seen": state.examples_seen, "pending": state.pending}
        facts = {"progress": counts, "leaves": {n: [str(x.dtype), list(x.shape)] for n, x in leaves.items()}}
        peers.chief.serve_leaves({n: partial(_bytes_of, x) for n, x in leaves.items()})
    facts = peers.gather(name, facts)[0]
    if peers.chief is not None:
        assert state is not None
        return state
    return _fetched(peers, facts)


def _fetched(peers: Peers, facts: dict[str, Any]) -> TrainState:
    """The state whose leaves the chief serves."""

    def fetched(name: str, dtype: str, shape: list[int]) -> LazyArray:
        return LazyArray(tuple(shape), np.dtype(dtype), lambda: np.frombuffer(peers.fetch(name), dtype).reshape(shape))

    leaves = {name: fetched(name, *what) for name, what in facts["leaves"].items()}
    return checkpointer.state_of(leaves, facts["progress"])


def _bytes_of(leaf: Any) -> bytes:
    return np.asarray(leaf).tobytes()


def _check_same_leaves(stored: dict[str, Any], initial: TrainState) -> None:
    stored = {n: x for n, x in stored.items() if not n.startswith(f"{STRATEGY_STATE}/")}  # the strategy's own affair
    expected = {n: [str(np.dtype(x.dtype)), list(x.shape)] for n, x in flatten(initial.arrays()).items()}
    if stored == expected:
        return
    differing = sorted(n for n in stored.keys() | expected.keys() if stored.get(n) != expected.get(n))
    first = differing[0]
    raise UsageError(
        f"The checkpoint in --workdir is of another model or optimizer: {len(differing)} arrays differ, the first is "
        f"{first!r} (stored: {stored.get(first)}, configured: {expected.get(first)}). Choose another --workdir."
    )
