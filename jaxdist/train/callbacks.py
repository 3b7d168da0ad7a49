"""A user's own code at the moments of a run: `train_and_evaluate(config, workdir, callbacks=[...])`.

    start ... logged logged evaluated saved ... phase_changed ... logged evaluated saved end

Callbacks are called on the training thread of every process that has the moment: `logged` on all, `evaluated` and
`saved` where evaluations and checkpoints are made. They must not exchange anything between processes. What one raises
ends its process, as any other failure does: the run, but with parameter servers the chief's alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class RunView:
    """What a callback sees of the run; nothing of it can be changed.

    Attributes:
      process_id, num_processes: this worker, of how many.
      is_chief: True on one of them.
      config: the configuration, flat: {'optim.learning_rate': 0.1, ...}.
      updates, examples_seen, epoch: how far the run has come.
      strategy: of the present phase, as text.
      metrics: names of what the rows say of the model: 'loss' and the objective's metrics.
    """

    process_id: int
    num_processes: int
    is_chief: bool
    config: Mapping[str, Any]
    updates: int
    examples_seen: int
    epoch: float
    strategy: str
    _arrays: Callable[[], Mapping[str, Any]]
    metrics: tuple[str, ...] = ("loss", "accuracy")

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", MappingProxyType(dict(self.config)))

    @property
    def arrays(self) -> Mapping[str, Any]:
        """This process's arrays, {params, ...}, as its strategy keeps them: whole, a shard, a stage, or the buffers of
        the servers. The next step reuses their memory: copy (`np.array`) what is to be kept."""
        return MappingProxyType(dict(self._arrays()))


class Callback:
    """Does nothing; override what is wanted."""

    def start(self, run: RunView) -> None:
        """The state is there, initial or restored; nothing has been trained since."""

    def logged(self, run: RunView, row: Row) -> None:
        """A train row was made."""

    def evaluated(self, run: RunView, row: Row) -> None:
        """An evaluation is done, by this process or by an evaluator."""

    def saved(self, run: RunView, row: Row) -> None:
        """A checkpoint is on disk; `row` says of which update. It may come some steps later."""

    def phase_changed(self, run: RunView, row: Row) -> None:
        """Another phase has begun; `row` is its event."""

    def end(self, run: RunView, summary: Row) -> None:
        """The run has come to its good end."""


class Callbacks:
    """Calls them all, in order. `view`: () -> the run as it is now; not called where there are no callbacks."""

    def __init__(self, callbacks: Sequence[Callback], view: Callable[[], RunView]) -> None:
        check(callbacks)
        self._callbacks, self._view = list(callbacks), view

    def call(self, moment: str, *row: Mapping[str, Any]) -> None:
        """`moment`: the name of a method of `Callback`."""
        if not self._callbacks:
            return
        view = self._view()
        for callback in self._callbacks:
            getattr(callback, moment)(view, *(MappingProxyType(dict(one)) for one in row))


def check(callbacks: Sequence[Callback]) -> None:
    """Refuses what is no callback, before anything is trained.

    Raises:
      TypeError: which one.
    """
    for number, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks[{number}] is a {type(callback).__name__}, not a jaxdist.Callback.")
