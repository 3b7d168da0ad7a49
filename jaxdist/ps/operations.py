"""The queue of operations, and who applies them: one at a time, in the one order that server 0 gives them.

    server 0    emit ----> queue ---------------------------------> drain -> shard
                      +--> replicators -----> receive -> queue ---> drain -> shard        the others

The applier's thread drains where nobody waits for the operations. A thread whose caller waits for them does it itself:
handing them to the applier would cost two switches.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Fenced
from jaxdist.ps.replication import OperationReplicator
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.shard import Shard
from jaxdist.ps.squared_norms import SquaredNorms
from jaxdist.ps.values import Values, contents
from jaxdist.runtime import profiler


class Operations:
    """A server's operations.

    Args:
      others: server 0's replicators, one for each other server; on those there are none.
      on_update: called after each applied update with its version.
      norms: for updates with clipped gradients.

    Attributes:
      applying: held by the thread that applies operations; taken before the lock, never while holding it.
    """

    def __init__(
        self,
        state: ServerState,
        others: Sequence[OperationReplicator],
        on_update: Callable[[int], None],
        norms: SquaredNorms,
    ) -> None:
        self._state, self._others, self._on_update, self._norms = state, others, on_update, norms
        self.applying = threading.Lock()
        self._queue: collections.deque[pb.Operation] = collections.deque()
        self._received = 0  # number of the next operation expected from server 0
        self._draining = False  # the thread that emits operations is about to apply them

    def reset(self) -> None:
        """Forgets the operations that wait; numbers begin again. Called with the lock."""
        self._queue.clear()
        self._received = 0

    def emit(self, operation: pb.Operation) -> None:
        """The next operation, for every shard. Called with the lock; never blocks."""
        self._queue.append(operation)
        for other in self._others:
            other.put(operation)
        if not self._draining:
            self._state.work.notify()

    @contextlib.contextmanager
    def drained_by_caller(self) -> Iterator[None]:
        """While it emits operations that it will `drain` itself: the applier is left asleep. Called with the lock."""
        self._draining = True
        try:
            yield
        finally:
            self._draining = False

    def receive(self, first: int, operations: Sequence[pb.Operation]) -> None:
        """Operations from server 0, of which `first` is the first's number. Called with the lock.

        Raises:
          Fenced: some before them are missing.
        """
        if first > self._received:
            raise Fenced(f"operations {self._received} to {first} are missing")
        self._queue.extend(operations[self._received - first :])
        self._received = max(self._received, first + len(operations))

    def apply_forever(self) -> None:
        """The applier's thread: blocks until the server closes."""
        while not self._state.closing.is_set():
            with self._state.work:
                while not self._queue and not self._state.closing.is_set():
                    self._state.work.wait(1.0)
            self._drain()

    def drain(self) -> None:
        """Applies the operations that wait, one at a time, unless another thread is at it. Called without the lock.

        Blocks while it applies; a failure ends the server.
        """
        self._state.guarded(self._drain)()

    def _drain(self) -> None:
        state = self._state
        # Looked at again after each release: what came in between found the lock taken.
        while self._queue and state.shard is not None and self.applying.acquire(blocking=False):
            try:
                while True:
                    with state.changed:
                        if not self._queue or state.shard is None:
                            break
                        operation, shard = self._queue.popleft(), state.shard
                    self._do(operation, shard)
                    with state.changed:
                        state.changed.notify_all()
            finally:
                self.applying.release()

    def _do(self, operation: pb.Operation, shard: Shard) -> None:
        match operation.kind:
            case pb.Operation.UPDATE:
                weights = operation.learning_rate, operation.stats_weight, operation.momentum_cut, operation.part
                clip = None
                if limit := operation.clip_global_norm:
                    clip = limit, functools.partial(self._norms.total, operation.version)
                with profiler.span(profiler.SERVER_UPDATE):
                    applied = shard.update(operation.version, operation.claims, *weights, clip=clip)
                if applied:
                    self._on_update(operation.version)
            case pb.Operation.PIN:
                shard.pin(operation.pin)
            case pb.Operation.UNPIN:
                shard.unpin(operation.pin)
            case pb.Operation.FORGET:
                shard.forget(operation.claims)
            case pb.Operation.SNAPSHOT:
                self._state.writer.submit(self._save, self._state.run, shard.values, operation.committed)

    def _save(self, run: str, values: Values, committed: int) -> None:
        try:
            self._state.snapshots.save(run, values.version, contents(values), keep=committed)
        except Exception as e:  # training goes on; what is lost with a server grows
            logging.error("The snapshot of version %d could not be written: %s", values.version, e)
