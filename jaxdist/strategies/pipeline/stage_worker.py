"""One stage of one replica, at work: the actions of a schedule on a device, as soon as their inputs are there."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdist.errors import ConnectionLost
from jaxdist.parallel.schedules import Action
from jaxdist.runtime import profiler
from jaxdist.state import Tree
from jaxdist.strategies.pipeline.links import Link
from jaxdist.task import Batch, Metrics
from jaxdist.task.stage import Stage, Values


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A stage that gives this one activations, or is given some.

    Attributes:
      blocks: whose outputs go from one to the other, in order; their gradients come back.
      on_tree: the connection is on the way from the earlier stage to the last (`StageWorker.total`).
    """

    link: Link
    stage: int
    blocks: tuple[str, ...]
    on_tree: bool = True


Spent = dict[int, tuple[float, int]]  # stage -> (seconds at work, bytes sent)


@dataclasses.dataclass
class Step:
    """What a stage worker did in one training step.

    Attributes:
      grads, sums: over the microbatches, on its device.
      metrics: of the replica's examples: sums, as Python floats.
      stop: whether any stage of the replica was asked to stop.
      finite: whether the loss and all gradients of the replica are; looked at under health.nonfinite=skip alone.
      spans: (action, begin, end) in seconds of `time.time()`; waiting for inputs is not in them.
      spent: of this stage and those after it in this step, of the others in the step before; not of one that compiled.
      live_bytes: the most that was kept for backward passes at one time.
      waited: seconds blocked for activations and gradients of stages in other processes; None without such neighbours.
    """

    grads: Tree
    sums: Tree
    metrics: dict[str, float]
    stop: bool
    finite: bool
    spans: list[tuple[Action, float, float]]
    spent: Spent
    live_bytes: int
    waited: float | None = None


class StageWorker:
    """A stage's place: device, neighbours and order of work. It runs on a thread of its own.

    Args:
      number: of the stage.
      actions: of this stage, in order (`parallel.schedules`).
      sources, sinks: the stages before and after it, by number; the last has no sinks.
      kinds: {block: (shape of one example's output, dtype)} of what crosses.
      turn: held while the device computes: stages of one device take turns, the first that is ready first.
    """

    def __init__(
        self,
        stage: Stage,
        number: int,
        actions: Sequence[Action],
        device: jax.Device,
        *,
        sources: Sequence[Neighbour],
        sinks: Sequence[Neighbour],
        kinds: Mapping[str, tuple[tuple[int, ...], Any]],
        turn: threading.Lock,
    ) -> None:
        self.stage, self.number, self.device = stage, number, device
        self.sources, self.sinks = list(sources), list(sinks)
        self._actions, self._kinds, self._turn = list(actions), kinds, turn
        self._has_compiled = False
        self._kept_bytes = 0  # of one microbatch
        self._one = jax.device_put(np.ones((), stage.metrics_dtype), device)
        self._spent_before: Spent = {}  # in the step before

    @property
    def parent(self) -> Link | None:
        """Towards the last stage; None of that itself."""
        return next((other.link for other in self.sinks if other.on_tree), None)

    @property
    def children(self) -> list[Link]:
        """Of the stages whose way to the last goes through this one."""
        return [other.link for other in self.sources if other.on_tree]

    @profiler.named(profiler.STEP)
    def train(self, arrays: Tree, microbatches: Sequence[Batch], step: int, stop: bool) -> Step:
        """Forward and backward passes of one step. Blocks.

        Raises:
          ConnectionLost: a neighbour is gone, or does another step.
        """
        with self._failing_neighbours():
            return self._train(arrays, microbatches, step, stop)

    @contextlib.contextmanager
    def _failing_neighbours(self) -> Iterator[None]:
        """What is raised inside reaches all: they are not to wait."""
        try:
            yield
        except BaseException as e:
            for other in (*self.sources, *self.sinks):
                other.link.fail(e)
            raise

    def _train(self, arrays: Tree, microbatches: Sequence[Batch], step: int, stop: bool) -> Step:
        stage = self.stage
        waited = self._waited()
        sums, grads = stage.start(arrays)
        kept: dict[int, tuple[Values, Any]] = {}
        spans: list[tuple[Action, float, float]] = []
        most = sent = 0
        earlier: Spent = dict(self._spent_before)  # of stages before this one
        later: Spent = {}  # of those after it
        behind: dict[str, Any] = {}
        by_x: Values = {}
        last_action = self._actions[-1]
        for action in self._actions:
            kind, m = action
            batch, header = microbatches[m], {"kind": kind, "microbatch": m, "step": step}
            if kind == "F":
                x: Values = {}
                for other in self.sources:
                    more = self._take(other, action, step, batch, x)
                    stop = stop or more["stop"]
                    earlier |= _spent(more.get("spent"))
                with self._turn:
                    begin = time.time()
                    y, sums, saved = stage.forward(arrays, sums, x, batch)
                    jax.block_until_ready(y)
                    spans.append((action, begin, time.time()))
                more = {"stop": stop} | ({"spent": earlier} if m == 0 else {})
                for other in self.sinks:
                    sent += _give(other, header, y, more)
                kept[m] = (x, saved)
                self._kept_bytes = self._kept_bytes or _bytes(kept[m])  # microbatches are of one size
                most = max(most, len(kept))
                continue
            cotangent: Any = {}
            for other in self.sinks:
                came: Values = {}
                more = self._take(other, action, step, batch, came)
                behind |= more
                later |= _spent(more.get("spent"))
                for name, one in came.items():
                    cotangent[name] = cotangent[name] + one if name in cotangent else one
            x, saved = kept.pop(m)
            with self._turn:
                begin = time.time()
                by_x, grads = stage.backward(arrays, x, batch, saved, cotangent if self.sinks else self._one, grads)
                jax.block_until_ready((by_x, grads))
                spans.append((action, begin, time.time()))
            del x, saved
            if action is not last_action:
                for other in self.sources:
                    sent += _give(other, header, by_x, {})
        # The last gradients to go back take along what the stages before do not know.
        metrics = behind.get("metrics") or {name: float(sums["metrics"][name]) for name in stage.sum_names}
        stop = behind.get("stop", stop)
        sent += sum(by_x[name].nbytes for other in self.sources for name in other.blocks)
        own = {self.number: (sum(end - begin for _, begin, end in spans), sent)}
        spent = earlier | later | own
        self._spent_before, self._has_compiled = own if self._has_compiled else {}, True
        header = {"kind": last_action.kind, "microbatch": last_action.microbatch, "step": step}
        for other in self.sources:
            _give(other, header, by_x, {"stop": stop, "metrics": metrics, "spent": spent})
        finite = True
        if stage.task.nonfinite == "skip":
            own_finite = math.isfinite(metrics["loss_sum"]) and bool(stage.all_finite(grads))
            finite = self._total(float(not own_finite), step) == 0
        if waited is not None:
            waited = (self._waited() or 0.0) - waited
        return Step(grads, sums, metrics, stop, finite, spans, spent, most * self._kept_bytes, waited)

    def _waited(self) -> float | None:
        """Of the links to other processes, since they were opened."""
        links = [other.link for other in (*self.sources, *self.sinks)]
        waits = [link.waited for link in links if link.waited is not None]
        return sum(waits) if waits else None

    def total(self, own: float, step: int) -> float:
        """The sum of a number of each stage, the same on all: towards the last stage, and back. Blocks."""
        with self._failing_neighbours():
            return self._total(own, step)

    def _total(self, own: float, step: int) -> float:
        for child in self.children:
            own += self._received(child, Action("N", 0), step)[0]["number"]
        if self.parent is not None:
            self.parent.send({"kind": "N", "microbatch": 0, "step": step, "number": own}, None)
            own = self._received(self.parent, Action("N", 1), step)[0]["number"]
        for child in self.children:
            child.send({"kind": "N", "microbatch": 1, "step": step, "number": own}, None)
        return own

    def _take(self, other: Neighbour, action: Action, step: int, batch: Batch, into: Values) -> Mapping[str, Any]:
        """Receives what crosses for a microbatch; returns the last header. Blocks."""
        header: Mapping[str, Any] = {}
        for name in other.blocks:
            shape, dtype = self._kinds[name]
            header, into[name] = self._received(other.link, action, step, (_examples(batch), *shape), dtype, name)
        return header

    def _received(
        self,
        link: Link,
        action: Action,
        step: int,
        shape: tuple[int, ...] = (0,),
        dtype: Any = np.uint8,
        block: str = "",
    ) -> tuple[Mapping[str, Any], jax.Array]:
        with profiler.span(profiler.PIPELINE_WAIT):
            header, array = link.receive(shape, dtype)
        came = (header["kind"], header["microbatch"], header["step"], header.get("block", ""))
        if came != (*action, step, block):
            raise ConnectionLost(f"a neighbouring stage sent {came} where {(*action, step, block)} was due")
        return header, array

    def evaluate(self, arrays: Tree, batch: Batch, number: int) -> Metrics | None:
        """The forward pass of an evaluation batch: metrics on the last stage. Blocks for its input."""
        with self._failing_neighbours():
            x: Values = {}
            for other in self.sources:
                self._take(other, Action("E", number), 0, batch, x)
            found = self.stage.evaluate(arrays, x, batch)
            if self.stage.is_last:
                return found
            for other in self.sinks:
                _give(other, {"kind": "E", "microbatch": number, "step": 0}, found, {})
            return None

    def return_metrics(self, number: int, metrics: Mapping[str, np.ndarray]) -> None:
        """An evaluation's metrics, to the stages of other processes whose way to the last goes through this one."""
        for child in self.children:
            if child.waited is not None:
                header = {"kind": "M", "microbatch": number, "step": 0, "metrics": _listed(metrics)}
                child.send(header, None)

    @property
    def hears_metrics(self) -> bool:
        """Whether an evaluation's metrics come to it from another process."""
        return self.parent is not None and self.parent.waited is not None

    def receive_metrics(self, number: int) -> dict[str, np.ndarray]:
        """The same, from the stage after. Blocks."""
        assert self.parent is not None
        header, _ = self._received(self.parent, Action("M", number), 0)
        return {name: np.asarray(value) for name, value in header["metrics"].items()}


def _give(other: Neighbour, header: Mapping[str, Any], values: Values, more: Mapping[str, Any]) -> int:
    """Sends what crosses; the last takes `more` along. Returns the bytes. Does not block."""
    for name in other.blocks:
        whole = {**header, "block": name, **(more if name == other.blocks[-1] else {})}
        other.link.send(whole, values[name])
    return sum(values[name].nbytes for name in other.blocks)


def _spent(listed: Mapping[Any, Any] | None) -> Spent:
    """From a header, whose keys may have become text."""
    return {int(stage): (busy, sent) for stage, (busy, sent) in (listed or {}).items()}


def _examples(batch: Batch) -> int:
    return len(batch["target"])


def _listed(metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """As JSON has them."""
    return {name: np.asarray(value).tolist() for name, value in metrics.items()}


def _bytes(tree: Any) -> int:
    """Of distinct arrays."""
    return sum({id(leaf): leaf.nbytes for leaf in jax.tree.leaves(tree)}.values())
