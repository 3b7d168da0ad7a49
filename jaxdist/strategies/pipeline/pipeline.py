"""A model in stages, each with its own part of the parameters, through which microbatches flow.

    process 0: stage 0  --activations-->  process 1: stage 1  --activations-->  ...          replica 0
                        <--gradients----                      <--gradients----
    process K: stage 0  --activations-->  process K+1: stage 1 ...                           replica 1
        |                                      |
        +-- a stage's gradients are averaged over its replicas --

Stage worker r * K + s is stage s of replica r; they are dealt out to the processes in order, and a process puts its
own on its devices in turn. Which order a stage works in is a table (`parallel.schedules`); what it computes, `Stage`;
the numbers are those of `single` with `strategy.accumulate` = microbatches * replicas, whatever the schedule.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxdist.comm.array_server import ArrayExchange
from jaxdist.comm.device_reducer import DeviceReducer
from jaxdist.cost.balance import Plan
from jaxdist.parallel.schedules import SCHEDULES, Schedule
from jaxdist.state import Position, TrainState, Tree, arrays_of, flatten
from jaxdist.strategies.base import Strategy
from jaxdist.strategies.pipeline.connect import StageConnector
from jaxdist.strategies.pipeline.jobs import Late, results_of
from jaxdist.strategies.pipeline.links import Link, LocalLink
from jaxdist.strategies.pipeline.placement import Place, places
from jaxdist.strategies.pipeline.report import PipelineReport
from jaxdist.strategies.pipeline.stage_worker import StageWorker, Step
from jaxdist.task import Batch, Metrics, Task
from jaxdist.task.stage import Stage
from jaxdist.task.update import SKIPPED


@dataclasses.dataclass(frozen=True)
class PipelineState:
    """The arrays of this process's stage workers, and the counts."""

    workers: tuple[Tree, ...]
    updates: int
    position: Position

    @property
    def examples_seen(self) -> int:
        return self.position.seen

    @property
    def arrays(self) -> Tree:
        return {
            name: {str(i): worker[name] for i, worker in enumerate(self.workers)} for name in ("params", "opt_state")
        }


class Pipeline(Strategy):
    """Runs its stage workers' schedules, each on a thread; sums gradients over replicas; updates.

    Args:
      num_stages, replicas: of the pipeline, and of the whole of it.
      plan: (the balance that a checkpoint remembers, or ()) -> the stages. Collective; called by the first
        `import_state`.
      num_microbatches: of each replica's share of a global batch.
      schedule: one of `SCHEDULES`.
      remat: as `Stage` takes it.
      connector: () -> what opens links to other processes; None in a run of one process. Collective.
    """

    def __init__(
        self,
        task: Task,
        *,
        global_batch_size: int,
        process_id: int,
        num_processes: int,
        num_stages: int,
        replicas: int,
        plan: Callable[[tuple[int, ...]], Plan],
        num_microbatches: int,
        schedule: str,
        remat: bool,
        connector: Callable[[], StageConnector] | None,
    ) -> None:
        self.task = task
        self.is_chief = process_id == 0
        self.examples_per_update = global_batch_size
        self._k, self._m, self._replicas = num_stages, num_microbatches, replicas
        self._plan_by, self._schedule, self._remat = plan, schedule, remat
        self._num_processes, self._open_connector = num_processes, connector
        self.balance: tuple[int, ...] = ()  # of a checkpoint, before import_state
        self._places = places(self._k, replicas, num_processes, len(jax.local_devices()))
        self._own = [p for p in self._places if p.process == process_id]
        whole = len(self._own) >= self._k  # pipelines in this process
        self.own_part = (process_id, num_processes) if whole else (self._own[0].replica, replicas)
        self.eval_multiple = replicas
        self._stages: dict[int, Stage] = {}
        self._sums: dict[int, DeviceReducer] = {}
        self._workers: list[StageWorker] = []
        self._connector: StageConnector | None = None
        self._exchange: ArrayExchange | None = None
        # One thread a stage worker, which does what it is given, in order.
        self._threads = [ThreadPoolExecutor(1, f"stage {p.stage}") for p in self._own]
        self._evaluations = 0
        self.report: PipelineReport = PipelineReport(self._own)
        self._closed = False

    def _open(self) -> None:
        """Chooses the stages and connects them. Collective."""
        plan = self._plan_by(self.balance)
        self.balance = plan.balance
        self.report.plan = {
            "balance": list(plan.balance),
            "replicas": self._replicas,
            "num_microbatches": self._m,
            "predicted": dict(plan.predicted),
        }
        # A stage whose replicas are here is compiled once.
        self._stages = {p.stage: Stage(self.task, self._names(p.stage), remat=self._remat) for p in self._own}
        self._sums = {s: DeviceReducer(self._devices_of(s, self._num_processes)) for s in self._stages}
        if self._open_connector is not None:
            self._connector = connector = self._open_connector()
            self.report.gather_timelines = lambda own: connector.gather("the timelines", own)
            self._exchange = ArrayExchange(
                self._connector.host,
                self._connector.token,
                ports=self._connector.ports,
                security=self._connector.security,
                is_chief=self.is_chief,
                gather=self._connector.gather,
            )
        self._workers = self._connect(SCHEDULES[self._schedule](self._k, self._m), plan.dtypes)

    def _names(self, stage: int) -> tuple[str, ...]:
        """Of its blocks."""
        ends = [0, *itertools.accumulate(self.balance)]
        return self.task.chain.names[ends[stage] : ends[stage + 1]]

    def _devices_of(self, stage: int, num_processes: int) -> list[jax.Device]:
        """Of the stage's replicas, in their order."""
        by_process: dict[int, list[jax.Device]] = {}
        for device in jax.devices():
            by_process.setdefault(device.process_index, []).append(device)
        if len(by_process) < num_processes:  # one replica: the collectives are not open
            return [self._device(p) for p in self._own if p.stage == stage]
        return [by_process[p.process][p.device] for p in self._places if p.stage == stage]

    @staticmethod
    def _device(place: Place) -> jax.Device:
        return jax.local_devices()[place.device]

    def _connect(self, schedule: Schedule, dtypes: Mapping[str, Any]) -> list[StageWorker]:
        """`dtypes`: of each block's activations."""
        chain = self.task.chain
        at = {(p.replica, p.stage): p for p in self._own}
        before: dict[Place, Link] = {}
        after: dict[Place, Link] = {}
        outside = []
        for p in self._own:
            following = at.get((p.replica, p.stage + 1))
            if following is not None:
                after[p], before[following] = LocalLink.pair(self._device(p), self._device(following))
        place_of = {(p.replica, p.stage): p for p in self._places}
        for p in self._own:
            for other in (place_of.get((p.replica, p.stage - 1)), place_of.get((p.replica, p.stage + 1))):
                if other is not None and other.process != p.process:
                    outside.append((p, other))
        if self._connector is not None:
            links = self._connector.open([(p[:2], o[:2], o.process, self._device(p)) for p, o in outside])
            for ends, link in links.items():
                p, other = (place_of[end] for end in ends)
                (before if other.stage < p.stage else after)[p] = link
        workers = []
        for p in self._own:
            stage = self._stages[p.stage]
            first = chain.names.index(stage.names[0])
            before_it = chain.names[first - 1]
            workers.append(
                StageWorker(
                    stage,
                    schedule[p.stage],
                    self._device(p),
                    before=before.get(p),
                    after=after.get(p),
                    incoming=(chain.activation_shapes[before_it], dtypes[before_it]) if first else None,
                    outgoing=(chain.activation_shapes[stage.names[-1]], dtypes[stage.names[-1]]),
                )
            )
        return workers

    # State.

    def state_dict(self) -> dict[str, Any]:
        return {"balance": list(self.balance), "blocks": list(self.task.chain.names)}

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Goes on with the stages that the run began with: to cut elsewhere would change the last bits."""
        balance = tuple(stored.get("balance", ()))
        if stored.get("blocks") == list(self.task.chain.names) and len(balance) == self._k:
            self.balance = balance

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> PipelineState:
        if not self._workers:
            self._open()
        arrays = canonical.arrays()
        placed = []
        for worker in self._workers:
            own = worker.stage.cut_arrays(arrays)
            # A copy, on this worker's device: the step donates it.
            placed.append(jax.tree.map(lambda leaf, d=worker.device: jax.device_put(np.array(leaf), d), own))
        jax.block_until_ready(placed)
        return PipelineState(tuple(placed), canonical.updates, canonical.position)

    def export_state(self, state: PipelineState) -> TrainState:
        """On the chief, of every stage: others' leaves are fetched from them when they are asked for. Collective."""
        own: dict[str, Any] = {}
        for place, arrays in zip(self._own, state.workers, strict=True):
            if place.replica == 0:
                own |= {name: np.array(leaf) for name, leaf in flatten(arrays).items()}
        if self._exchange is not None:
            self._exchange.keep(state.updates, own)
        if self.is_chief and self._exchange is not None:
            for place in self._places:
                if place.replica == 0 and place.process != 0:
                    for name, what in self._described(place.stage).items():
                        own[name] = self._exchange.lazy(place.process, state.updates, name, *what)
        return TrainState.of(arrays_of(own), state.updates, state.position)

    def _described(self, stage: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{name: (shape, dtype)} of a stage's leaves."""
        leaves = flatten(Stage(self.task, self._names(stage)).cut_arrays(self.task.init().arrays()))
        return {name: (leaf.shape, np.dtype(leaf.dtype)) for name, leaf in leaves.items()}

    # Steps.

    def place(self, batch: Batch) -> Any:
        """For each stage worker, its replica's microbatches; inputs go to first stages alone."""
        return [
            [self._put(worker, part) for part in _parts(shares[p.replica], self._m)]
            for shares in [self._shares(batch)]
            for p, worker in zip(self._own, self._workers, strict=True)
        ]

    def _shares(self, batch: Batch) -> dict[int, Batch]:
        """{replica: its share} of a batch of this process's replicas."""
        here = sorted({p.replica for p in self._own})
        return dict(zip(here, _parts(batch, len(here)), strict=True))

    @staticmethod
    def _put(worker: StageWorker, batch: Batch) -> Batch:
        wanted = batch if worker.stage.is_first else {name: v for name, v in batch.items() if name != "inputs"}
        return jax.device_put(wanted, worker.device)

    def train_step(self, state: PipelineState, batch: Any, stop: bool = False) -> tuple[PipelineState, Metrics]:
        """Blocks until this process's stages are done, but for the update."""
        jobs: list[Future[Step]] = [
            thread.submit(worker.train, arrays, microbatches, state.updates, stop)
            for thread, worker, arrays, microbatches in zip(
                self._threads, self._workers, state.workers, batch, strict=True
            )
        ]
        steps = results_of(jobs)
        rate = np.asarray(self.task.learning_rate(state.position.seen), self.task.dtype)
        count = np.asarray(self._m * self._replicas, self.task.dtype)
        new: list[Tree] = list(state.workers)
        metrics: dict[str, float] = {}
        names = self.task.objective.training_sums
        summed: dict[int, tuple[Tree, Tree]] = {}  # of each worker here
        for s, stage in self._stages.items():  # in the same order on all processes: collective
            here = [i for i, p in enumerate(self._own) if p.stage == s]
            of_all = self._sums[s]([self._to_sum(steps[i], stage) for i in here])
            for i, (grads, stats, numbers) in zip(here, of_all, strict=True):
                metrics = dict(zip((*names, "stop", SKIPPED), np.asarray(numbers).tolist(), strict=True))
                summed[i] = grads, stats
        if metrics[SKIPPED]:  # in a replica: nothing of this step counts
            metrics |= dict.fromkeys(names, 0.0) | {SKIPPED: 1.0}
        else:
            squares = self._squares(summed, count, state.updates)
            for i, (grads, stats) in summed.items():
                new[i] = self._workers[i].stage.update(state.workers[i], grads, stats, rate, count, squares[i])
        self.report.note(steps)
        return PipelineState(tuple(new), state.updates + 1, state.position.take(self.examples_per_update)[1]), metrics

    def _squares(self, summed: Mapping[int, tuple[Tree, Tree]], count: np.ndarray, step: int) -> list[Any]:
        """For each worker here the sum of squares of its replica's mean gradient, over all stages; None where nothing
        is clipped. Blocks for the other stages."""
        if not self.task.clip_global_norm:
            return [None] * len(self._workers)
        own = [float(self._workers[i].stage.squares(summed[i][0], count)) for i in range(len(self._workers))]
        jobs = [
            thread.submit(worker.total, number, step)
            for thread, worker, number in zip(self._threads, self._workers, own, strict=True)
        ]
        return [np.asarray(total, self.task.dtype) for total in results_of(jobs)]

    @staticmethod
    def _to_sum(step: Step, stage: Stage) -> tuple[Tree, Tree, np.ndarray]:
        numbers = [*(step.metrics[name] for name in stage.sum_names), step.stop, not step.finite]
        return step.grads, step.sums["stats"], np.asarray(numbers, stage.metrics_dtype)

    def eval_step(self, state: PipelineState, batch: Batch) -> Metrics:
        """The metrics wait for the last stage when they are looked at, in the order of the batches."""
        number, self._evaluations = self._evaluations, self._evaluations + 1
        shares = self._shares(batch)
        jobs = [
            thread.submit(worker.evaluate, arrays, self._put(worker, shares[p.replica]), number)
            for p, worker, thread, arrays in zip(self._own, self._workers, self._threads, state.workers, strict=True)
        ]
        return Late(functools.cache(lambda: self._collected(jobs, number)))  # type: ignore[return-value]

    def _collected(self, jobs: Sequence[Future[Metrics | None]], number: int) -> dict[str, np.ndarray]:
        """An evaluation batch's metrics, over all replicas; passed on to the stages before."""
        results = results_of(jobs)
        own = [result for result in results if result is not None]  # of last stages
        if own:
            found = {name: np.asarray(total) for name, total in self._sums[self._k - 1](own)[0].items()}
        else:
            found = self._workers[-1].receive_metrics(number)
        self._workers[0].return_metrics(number, found)  # to the process before, if it has stages of this replica
        return found

    def close(self, error: BaseException | None = None, *, run_goes_on: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        if self._exchange is not None:
            self._exchange.close(error)
        for thread in self._threads:
            thread.shutdown(wait=error is None, cancel_futures=True)
        if self._connector is not None:
            self._connector.close()


def _parts(batch: Batch, count: int) -> list[Batch]:
    """A batch in equal parts, in order."""
    parts = jax.tree.map(lambda value: value.reshape(count, -1, *value.shape[1:]), batch)
    return [jax.tree.map(lambda value, i=i: value[i], parts) for i in range(count)]
