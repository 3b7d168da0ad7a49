"""The canonical state that a run begins with, on every process: initial, or from the chief's newest checkpoint."""

from __future__ import annotations

from typing import Any

from jaxdist.checkpoint.checkpointer import Checkpointer
from jaxdist.cluster import ProcessGroup, share_state
from jaxdist.errors import UsageError
from jaxdist.state import TrainState, flatten
from jaxdist.state.train_state import STRATEGY_STATE
from jaxdist.task import Task


def restore(
    checkpoints: Checkpointer | None, task: Task, group: ProcessGroup
) -> tuple[TrainState, dict[str, Any] | None]:
    """(canonical state, stored progress): from the newest whole checkpoint, or initial with None. Collective; blocks
    until all have come.

    Only the chief has `checkpoints`; the others fetch its arrays when they ask for them.

    Raises:
      UsageError: the checkpoint is of another model, or all are damaged.
      PeerError: another process failed or was lost.
    """
    found = checkpoints.restore() if checkpoints is not None else None
    description = share_state.serve(group, found.leaves, found.progress) if found is not None else None
    description = share_state.gather_description(group, "the restored checkpoint", description)
    initial = task.init()
    if description is None:
        return initial, None
    _check_same_arrays(description["arrays"], initial)
    if found is not None:
        return found.state, found.progress
    return share_state.served_state(group, description), description["progress"]


def _check_same_arrays(stored: dict[str, Any], initial: TrainState) -> None:
    stored = {name: x for name, x in stored.items() if not name.startswith(f"{STRATEGY_STATE}/")}  # the strategy's own
    expected = {name: share_state.describe(leaf) for name, leaf in flatten(initial.arrays()).items()}
    if stored == expected:
        return
    differing = sorted(n for n in stored.keys() | expected.keys() if stored.get(n) != expected.get(n))
    first = differing[0]
    raise UsageError(
        f"The checkpoint in --workdir is of another model or optimizer: {len(differing)} arrays differ, the first is "
        f"{first!r} (stored: {stored.get(first)}, configured: {expected.get(first)}). Choose another --workdir."
    )
