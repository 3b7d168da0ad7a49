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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxdist.comm.array_server import ArrayExchange
from jaxdist.comm.device_reducer import DeviceReducer
from jaxdist.cost.balance import Plan
from jaxdist.state import Position, TrainState, Tree, arrays_of, flatten
from jaxdist.strategies.base import Strategy
from jaxdist.strategies.pipeline.connect import StageConnector
from jaxdist.strategies.pipeline.jobs import Late, results_of
from jaxdist.strategies.pipeline.placement import Place
from jaxdist.strategies.pipeline.report import PipelineReport
from jaxdist.strategies.pipeline.stage_worker import StageWorker, Step
from jaxdist.strategies.pipeline.workers import connected_workers, device_of, where
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


Remembered = Mapping[str, Any] | None  # `Pipeline.state_dict` of a checkpoint


class Pipeline(Strategy):
    """Runs its stage workers' schedules, each on a thread; sums gradients over replicas; updates.

    Args:
      replicas: of the whole pipeline.
      plan: (what a checkpoint remembers) -> the stages. Collective; called by the first `import_state`.
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
        replicas: int,
        plan: Callable[[Remembered], Plan],
        num_microbatches: int,
        schedule: str,
        remat: bool,
        connector: Callable[[], StageConnector] | None,
    ) -> None:
        self.task = task
        self.is_chief = process_id == 0
        self.examples_per_update = global_batch_size
        self._m, self._replicas = num_microbatches, replicas
        self._plan_by, self._schedule, self._remat = plan, schedule, remat
        self._process, self._num_processes, self._open_connector = process_id, num_processes, connector
        self.remembered: Remembered = None  # of a checkpoint, before import_state
        self._plan: Plan | None = None
        # Whole pipelines in a process, or several processes of one replica.
        per_replica = max(num_processes // replicas, 1)
        alone = num_processes <= replicas
        self.own_part = (process_id, num_processes) if alone else (process_id // per_replica, replicas)
        self.eval_multiple = replicas
        self._places: list[Place] = []
        self._own: list[Place] = []
        self._stages: dict[int, Stage] = {}
        self._sums: dict[int, DeviceReducer] = {}
        self._workers: list[StageWorker] = []
        self._connector: StageConnector | None = None
        self._exchange: ArrayExchange | None = None
        self._threads: list[ThreadPoolExecutor] = []
        self._evaluations = 0
        self.report: PipelineReport = PipelineReport()
        self._closed = False

    def _open(self) -> None:
        """Chooses the stages and connects them. Collective."""
        plan = self._plan = self._plan_by(self.remembered)
        self._places = where(plan, self._replicas, self._num_processes, len(jax.local_devices()))
        self._own = [p for p in self._places if p.process == self._process]
        # One thread a stage worker, which does what it is given, in order.
        self._threads = [ThreadPoolExecutor(1, f"stage {p.stage}") for p in self._own]
        self.report.places = self._own
        self.report.devices = [(p.process, p.device) for p in self._places if p.replica == 0]
        self.report.plan = {
            "balance": list(plan.balance),
            "replicas": self._replicas,
            "num_microbatches": self._m,
            "predicted": dict(plan.predicted),
        } | ({"stage_blocks": [list(names) for names in plan.stages], "stage_processes": list(plan.processes)}
             if plan.processes else {})  # fmt: skip
        # A stage whose replicas are here is compiled once.
        self._stages = {p.stage: Stage(self.task, plan.stages[p.stage], remat=self._remat) for p in self._own}
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
        table = plan.schedule(self.task.model, self._schedule, self._m)
        self._workers = connected_workers(
            plan, self.task.model, table, self._stages, self._places, self._own, self._connector
        )

    def _devices_of(self, stage: int, num_processes: int) -> list[jax.Device]:
        """Of the stage's replicas, in their order."""
        by_process: dict[int, list[jax.Device]] = {}
        for device in jax.devices():
            by_process.setdefault(device.process_index, []).append(device)
        if len(by_process) < num_processes:  # one replica: the collectives are not open
            return [device_of(p) for p in self._own if p.stage == stage]
        return [by_process[p.process][p.device] for p in self._places if p.stage == stage]

    # State.

    def state_dict(self) -> dict[str, Any]:
        if self._plan is None:
            return {}
        kept = {"balance": list(self._plan.balance), "blocks": list(self.task.model.names)}
        if self._plan.processes:
            kept |= {"stages": [list(names) for names in self._plan.stages], "processes": list(self._plan.processes)}
        return kept

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Goes on with the stages that the run began with: to cut elsewhere would change the last bits."""
        if stored.get("blocks") == list(self.task.model.names):
            self.remembered = stored

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
        assert self._plan is not None
        leaves = flatten(Stage(self.task, self._plan.stages[stage]).cut_arrays(self.task.init().arrays()))
        return {name: (leaf.shape, np.dtype(leaf.dtype)) for name, leaf in leaves.items()}

    # Steps.

    def place(self, batch: Batch) -> Any:
        """For each stage worker, its replica's microbatches; inputs go to those alone that read some."""
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
        wanted = batch if worker.stage.reads_inputs else {name: v for name, v in batch.items() if name != "inputs"}
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
        """An evaluation batch's metrics, over all replicas; passed on to other processes."""
        results = [result for result in results_of(jobs) if result is not None]
        found: Any = None
        if results:  # of last stages
            last = max(self._sums)
            found = {name: np.asarray(total) for name, total in self._sums[last](results)[0].items()}
            self._pass_on(number, found)
        # Later stages hear of it first, and each from a still later one: no two processes wait for each other.
        for worker in reversed(self._workers):
            if worker.hears_metrics:
                heard = worker.receive_metrics(number)
                if found is None:
                    found = heard
                    self._pass_on(number, found)
        return found

    def _pass_on(self, number: int, metrics: dict[str, np.ndarray]) -> None:
        for worker in self._workers:
            worker.return_metrics(number, metrics)

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
