"""The contract between the training loop and a way of distributing it."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

from jaxdist.task import Batch, Metrics, Task, TrainState

State = Any  # opaque to callers; only `export_state` gives it meaning


class Strategy(abc.ABC):
    """How one training step is spread over devices and processes.

    Owns placement and communication. Does not own the model, the loss, the data order, the budget or the loop. `self`
    holds only what can be rebuilt; the training state is an argument of every call.

    Attributes:
      task: what is trained.
      is_chief: True on exactly one process, which alone reads and writes the run directory.
      examples_per_update: examples whose gradients make one update.
      eval_part: (index, count): the share of each evaluation batch that this process must bring.
      eval_multiple: evaluation batches are a multiple of this many examples.
    """

    task: Task
    is_chief: bool
    examples_per_update: int
    eval_part: tuple[int, int] = (0, 1)
    eval_multiple: int = 1

    @abc.abstractmethod
    def import_state(self, canonical: TrainState) -> State:
        """Places, shards or sends a canonical state, leaf by leaf. Every process calls it."""

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

    def ranges(self, start: int, updates: int) -> Iterator[range]:
        """Positions of the stream that this process trains on, step by step, for `updates` updates from `start`."""
        for k in range(updates):
            begin = start + k * self.examples_per_update
            yield range(begin, begin + self.examples_per_update)

    def place(self, batch: Batch) -> Batch:
        """Puts a host batch where the step wants it; called from the prefetching thread."""
        return batch

    def close(self) -> None:  # noqa: B027 - most strategies hold nothing to close
        """Ends connections; idempotent."""
