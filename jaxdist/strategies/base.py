"""The contract between the training loop and a way of distributing it."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdist.parallel.local_box import bytes_here
from jaxdist.state import Position, TrainState
from jaxdist.state.position import indices
from jaxdist.task import Batch, Metrics, Task

State = Any  # opaque to callers; only `export_state` gives it meaning


class Strategy(abc.ABC):
    """How one training step is spread over devices and processes.

    Owns placement and communication. Does not own the model, the loss, the data order, the budget or the loop. `self`
    holds only what can be rebuilt; the training state is an argument of every call.

    Attributes:
      task: what is trained.
      is_chief: True on exactly one process, which alone reads and writes the run directory.
      examples_per_update: examples whose gradients make one update.
      own_part: (index, count): the share of each update's examples, and of each evaluation batch, that this process
        must bring.
      eval_multiple: evaluation batches are a multiple of this many examples.
      learning_rate_scale: what an update's learning rate is multiplied by.
      collective: whether every process takes part in evaluations and exports, or the chief alone.
      lost_workers: those that `end_phase` missed, on the chief.
    """

    task: Task
    is_chief: bool
    examples_per_update: int
    own_part: tuple[int, int] = (0, 1)
    eval_multiple: int = 1
    collective: bool = True
    learning_rate_scale: float = 1.0
    lost_workers: tuple[int, ...] = ()

    @abc.abstractmethod
    def import_state(self, canonical: TrainState, total_examples: int = 0) -> State:
        """Places, shards or sends a canonical state, leaf by leaf. Every process calls it.

        `total_examples`, of the whole run, is for strategies that hand them out by themselves.
        """

    @abc.abstractmethod
    def export_state(self, state: State) -> TrainState:
        """The canonical state in host memory, safe from later steps. Collective for synchronous strategies."""

    @abc.abstractmethod
    def train_step(self, state: State, batch: Batch, stop: bool = False) -> tuple[State, Metrics]:
        """One step; `state` must not be used again. Does not block until the device is done.

        `stop` says that this process was asked to stop. The metrics, sums over all the examples of the step, are
        device arrays; their `stop` is positive on all processes alike when any one asked.
        """

    @abc.abstractmethod
    def eval_step(self, state: State, batch: Batch) -> Metrics:
        """Metrics of one evaluation batch, summed over all processes. Collective like `train_step`."""

    @abc.abstractmethod
    def progress(self, state: State) -> tuple[int, int]:
        """(updates, examples_seen) of a state, without waiting for the device."""

    def bytes_held(self, state: State) -> dict[str, int]:
        """Of {params, opt_state} on this process's devices."""
        arrays = getattr(state, "arrays", {})
        return {tree: bytes_here(arrays.get(tree, {})) for tree in ("params", "opt_state")}

    def positions(self, start: Position, total_examples: int) -> Iterator[np.ndarray]:
        """Positions of the stream (int64 [b]) that this process trains on, step by step, until the run has seen
        `total_examples`; consumed by the prefetching thread, ahead of the steps."""
        part, parts = self.own_part
        share = self.examples_per_update // parts
        while start.seen + self.examples_per_update <= total_examples:
            taken, start = start.take(self.examples_per_update)
            yield indices(taken)[part * share : (part + 1) * share]

    def stop_positions(self) -> None:  # noqa: B027 - most strategies know all positions beforehand
        """No more positions are wanted: `positions` must not go on waiting for some."""

    def place(self, batch: Batch) -> Batch:
        """Puts a host batch where the step wants it; called from the prefetching thread."""
        return batch

    def drain(self, state: State) -> tuple[State, Metrics | None]:
        """The state once the updates of every process are in, with the metrics of those that `train_step` has not
        reported; called after the last step, or to stop early."""
        return state, None

    def snapshot(self, state: State) -> State:
        """One consistent state to evaluate; `progress` of it says which."""
        return state

    def phase(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Around what this process does besides training steps ('evaluate', 'checkpoint')."""
        return contextlib.nullcontext()

    def row(self) -> dict[str, Any]:
        """What the strategy adds to a train row; measured since the last call."""
        return {}

    def events(self) -> list[dict[str, Any]]:
        """What has happened since the last call and is worth a row of its own ({'event': ..., ...})."""
        return []

    def evaluations(self) -> list[dict[str, Any]] | None:
        """Rows that another process has evaluated since the last call; None where this one is to evaluate."""
        return None

    def gather(self, report: list[Any]) -> list[list[Any]]:
        """Every process's report at the end of the run, on the chief, where the strategy connects the processes."""
        return [report]

    def summary(self) -> dict[str, Any]:
        """What the strategy adds to the summary; called after `gather`."""
        return {}

    def phase_is_over(self, row: dict[str, Any]) -> bool:
        """Whether a rule that has looked at a train row ends the phase here; collective as `train_step`."""
        return False

    def may_go_on(self) -> bool:
        """Whether another phase may follow when the positions of this one are used up; `what_follows` says."""
        return False

    def what_follows(self, *, end: bool, stop: bool) -> str:
        """'phase', 'end' or 'stop': the same on all processes. Collective; after everything is applied and saved.

        Args:
          end: by what this process knows the run is over.
          stop: this process was asked to stop.
        """
        return "end"

    def next_phase(self, canonical: TrainState | None) -> tuple[State, Position]:
        """Hands over to the next phase, from the canonical state of this one's end (None on processes that have none).
        Returns its state, and where in the stream it begins.

        Collective. Arrays on devices may be lost.
        """
        raise NotImplementedError

    def end_phase(self) -> dict[str, Any]:
        """Leaves everything ready for another strategy, once all is applied and exported; what `summary` has to say.
        Collective."""
        found = self.summary()
        self.close()
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint is to keep beside the state (JSON)."""
        return {}

    def load_state_dict(self, memo: dict[str, Any]) -> None:  # noqa: B027 - most keep nothing
        """What `memo` gave, of this strategy or of another; called before `import_state`, where a run is resumed."""

    def close(self, error: BaseException | None = None) -> None:  # noqa: B027 - most hold nothing to close
        """Ends connections, telling others of `error` where they need to know; idempotent."""
