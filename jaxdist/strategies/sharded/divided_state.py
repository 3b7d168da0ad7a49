"""What strategies have in common that divide the state among the devices, so that no process has it whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxdist.comm.array_server import ArrayExchange
from jaxdist.state import TrainState, Tree
from jaxdist.strategies.data_parallel.allreduce import AllReduce
from jaxdist.strategies.placed_state import PlacedState
from jaxdist.strategies.sharded.export import export_arrays
from jaxdist.task import Task


class DividedState(AllReduce):
    """Each process makes its own parts of the initial state; on the chief, a checkpoint fetches those of the others.

    Args:
      exchange: () -> what brings parts of other processes to the chief; None where nothing is divided over processes.
        Collective.
    """

    def __init__(self, task: Task, *, exchange: Callable[[], ArrayExchange] | None = None, **options: Any) -> None:
        self._open_exchange = exchange
        self._exchange: ArrayExchange | None = None
        super().__init__(task, **options)

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> PlacedState:
        if self._open_exchange is not None and self._exchange is None:
            self._exchange = self._open_exchange()
            self._join_collectives()
        return super().import_state(canonical)

    def _join_collectives(self) -> None:
        """Connects the processes for their collectives, where that must not wait for the first step. Collective."""

    def export_state(self, state: PlacedState) -> TrainState:
        """On the chief: parts of other processes are fetched when they are asked for. Collective."""
        arrays = export_arrays(state.arrays, state.updates, self._exchange)
        return TrainState.of(self._canonical(arrays), state.updates, state.position)

    def _canonical(self, arrays: Tree) -> Tree:
        """From arrays as they are stored, on the host."""
        return arrays

    def close(self, error: BaseException | None = None, *, run_goes_on: bool = False) -> None:
        if self._exchange is not None:
            self._exchange.close(error)
            self._exchange = None
