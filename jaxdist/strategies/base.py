"""The contract between the training loop and a way of distributing it."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from jaxdist.state import Position, TrainState, Tree
from jaxdist.strategies.positions import Positions, Slices
from jaxdist.strategies.report import Report
from jaxdist.task import Batch, Metrics, Task


class State(Protocol):
    """What a strategy trains: opaque but for how far it has come, which the host knows without asking a device, and the
    arrays on this process's devices. Only `export_state` gives them meaning."""

    @property
    def updates(self) -> int: ...

    @property
    def examples_seen(self) -> int: ...

    @property
    def arrays(self) -> Tree: ...


class Strategy(abc.ABC):
    """How one training step is spread over devices and processes.

    Owns placement and communication. Does not own the model, the loss, the data order, the budget or the loop. `self`
    holds only what can be rebuilt; the training state is an argument of every call. A strategy has four methods to
    write; the others are for those that need them.

    Attributes:
      task: what is trained.
      is_chief: True on exactly one process, which alone reads and writes the run directory.
      examples_per_update: examples whose gradients make one update.
      own_part: (index, count): the share of each update's examples, and of each evaluation batch, that this process
        must bring.
      eval_multiple: evaluation batches are a multiple of this many examples.
      learning_rate_scale: what an update's learning rate is multiplied by.
      collective: whether every process takes part in evaluations and exports, or the chief alone.
      report: what is to be said of it in rows, events and the summary.
    """

    task: Task
    is_chief: bool
    examples_per_update: int
    own_part: tuple[int, int] = (0, 1)
    eval_multiple: int = 1
    collective: bool = True
    learning_rate_scale: float = 1.0
    report: Report = Report()

    @abc.abstractmethod
    def import_state(self, canonical: TrainState, total_examples: int = 0) -> Any:
        """Places, shards or sends a canonical state, array by array. Every process calls it. Returns a `State`.

        `total_examples`, until which this strategy trains, is for those that hand them out by themselves.
        """

    @abc.abstractmethod
    def export_state(self, state: Any) -> TrainState:
        """The canonical state in host memory, safe from later steps. Collective where `collective` is."""

    @abc.abstractmethod
    def train_step(self, state: Any, batch: Batch, stop: bool = False) -> tuple[Any, Metrics]:
        """One step; `state` must not be used again. Does not block until the device is done.

        `stop` says that this process was asked to stop. The metrics, sums over all the examples of the step, are
        device arrays; their `stop` is positive on all processes alike when any one asked.
        """

    @abc.abstractmethod
    def eval_step(self, state: Any, batch: Batch) -> Metrics:
        """Metrics of one evaluation batch, summed over all processes. Collective like `train_step`."""

    def positions(self, start: Position, total_examples: int) -> Positions:
        """What this process trains on from `start`, until the run has seen `total_examples`."""
        return Slices(start, self.examples_per_update, self.own_part, total_examples)

    def place(self, batch: Batch) -> Batch:
        """Puts a host batch where the step wants it; called from the prefetching thread."""
        return batch

    def updates_of_all(self) -> int:
        """Where others train by themselves: what the run has come to, as far as this process knows. Elsewhere 0. Never
        blocks; called from any thread."""
        return 0

    def drain(self, state: Any) -> tuple[Any, Metrics | None]:
        """The state once the updates of every process are in, with the metrics of those that `train_step` has not
        reported; called after the last step, or to stop early. Blocks for the other processes."""
        return state, None

    @contextlib.contextmanager
    def away(self, state: Any, activity: str) -> Iterator[Any]:
        """Around what this process does besides training steps: 'evaluate' or 'checkpoint'. Gives the state to do it
        with, which is one consistent state of the whole model."""
        yield state

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint is to keep of the strategy besides arrays (JSON)."""
        return {}

    def load_state_dict(self, stored: dict[str, Any]) -> None:  # noqa: B027 - most keep nothing
        """What `state_dict` gave; called before `import_state` where a run of this strategy is resumed."""

    def close(self, error: BaseException | None = None, *, run_goes_on: bool = False) -> None:  # noqa: B027
        """Ends connections, telling others of `error` where they need to know; idempotent.

        `run_goes_on`: under another strategy, once everything is applied and exported: what both share stays. Then it
        is collective.
        """
