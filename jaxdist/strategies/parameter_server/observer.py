"""An evaluator's view of a run on parameter servers: it reads snapshots, and trains nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jaxdist.comm.security import OPEN, Security
from jaxdist.ps import Client
from jaxdist.state import TrainState
from jaxdist.strategies.base import Strategy
from jaxdist.strategies.parameter_server.flat_model import FlatModel
from jaxdist.strategies.parameter_server.state import PulledState, snapshot
from jaxdist.task import Batch, Metrics, Task


class Observer(Strategy):
    """Only `snapshot` and `eval_step` have a meaning; the run's chief gets its results by `post`.

    Raises:
      UsageError: no server can be reached, or this process does not fit the run.
    """

    is_chief = False
    collective = False

    def __init__(
        self,
        task: Task,
        *,
        server_addresses: Sequence[str],
        signature: Mapping[str, Any],
        timeouts: Mapping[str, float],
        security: Security = OPEN,
    ) -> None:
        self.task = task
        self._model = FlatModel(task, len(server_addresses))
        self._client = Client(
            server_addresses,
            -1,
            self._model.layout,
            signature=signature,
            security=security,
            timeout_seconds=timeouts["timeout_seconds"],
            connect_seconds=timeouts["connect_timeout_seconds"],
        )
        self._client.check_servers()
        self._client.join()

    def examples_seen(self) -> int:
        """Examples applied, as of the last sign of life (at most a second ago).

        Raises:
          PeerError, Preempted: the run has ended, or the servers give no answer.
        """
        self._client.check_alive()
        return self._client.progress.examples_seen

    def snapshot(self) -> PulledState:
        """One and the same version of all servers; stops nobody."""
        return snapshot(self._client, self._model, to_evaluate=True)

    def eval_step(self, state: PulledState, batch: Batch) -> Metrics:
        return self._model.evaluate(state.buffers, batch)

    def post(self, row: Mapping[str, Any]) -> None:
        """Gives the chief an evaluation to write."""
        self._client.post_evaluation(row)

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> NoReturn:
        raise NotImplementedError("an observer has no state of its own")

    def export_state(self, state: PulledState) -> NoReturn:
        raise NotImplementedError("the chief exports")

    def train_step(self, state: PulledState, batch: Batch, stop: bool = False) -> NoReturn:
        raise NotImplementedError("an observer does not train")

    def close(self, error: BaseException | None = None, *, run_goes_on: bool = False) -> None:
        with contextlib.suppress(Exception):
            self._client.close()
