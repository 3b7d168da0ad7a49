"""One stage of one replica, at work: the actions of a schedule on a device, as soon as their inputs are there."""

from __future__ import annotations

import contextlib
import dataclasses
import math
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
from jaxdist.task.stage import Stage


@dataclasses.dataclass
class Step:
    """What a stage worker did in one training step.

    Attributes:
      grads, sums: over the microbatches, on its device.
      metrics: of the replica's examples: sums, as Python floats.
      stop: whether any stage of the replica was asked to stop.
      finite: whether the loss and all gradients of the replica are; looked at under health.nonfinite=skip alone.
      spans: (action, begin, end) in seconds of `time.time()`; waiting for inputs is not in them.
      busy: seconds in them, of this stage and those after it; sent: bytes of what they sent.
      live_bytes: the most that was kept for backward passes at one time.
      waited: seconds blocked for activations and gradients of stages in other processes; None without such neighbours.
    """

    grads: Tree
    sums: Tree
    metrics: dict[str, float]
    stop: bool
    finite: bool
    spans: list[tuple[Action, float, float]]
    busy: list[float]
    sent: list[int]
    live_bytes: int
    waited: float | None = None


class StageWorker:
    """A stage's place: device, neighbours and order of work. It runs on a thread of its own.

    Args:
      actions: of this stage, in order (`parallel.schedules`).
      before, after: the links to the neighbours; None at the ends.
      incoming, outgoing: (shape of one example's, dtype) of the activations at the two ends; no stage before: None.
    """

    def __init__(
        self,
        stage: Stage,
        actions: Sequence[Action],
        device: jax.Device,
        *,
        before: Link | None,
        after: Link | None,
        incoming: tuple[tuple[int, ...], Any] | None,
        outgoing: tuple[tuple[int, ...], Any],
    ) -> None:
        self.stage, self.device = stage, device
        self._actions, self._before, self._after = list(actions), before, after
        self._incoming, self._outgoing = incoming, outgoing
        self._kept_bytes = 0  # of one microbatch
        self._one = jax.device_put(np.ones((), stage.metrics_dtype), device)

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
        """What is raised inside reaches both: they are not to wait."""
        try:
            yield
        except BaseException as e:
            for link in (self._before, self._after):
                if link is not None:
                    link.fail(e)
            raise

    def _train(self, arrays: Tree, microbatches: Sequence[Batch], step: int, stop: bool) -> Step:
        stage = self.stage
        waited = self._waited()
        sums, grads = stage.start(arrays)
        kept: dict[int, tuple[jax.Array | None, Any]] = {}
        spans: list[tuple[Action, float, float]] = []
        most = sent = 0
        behind: Mapping[str, Any] = {}
        last_action = self._actions[-1]
        for action in self._actions:
            kind, m = action
            batch = microbatches[m]
            if kind == "F":
                x = None
                if self._before is not None:
                    header, x = self._received(self._before, action, step, _examples(batch), self._incoming)
                    stop = stop or header["stop"]
                begin = time.time()
                y, sums, saved = stage.forward(arrays, sums, x, batch)
                y.block_until_ready()
                spans.append((action, begin, time.time()))
                if self._after is not None:
                    self._after.send({"kind": kind, "microbatch": m, "step": step, "stop": stop}, y)
                    sent += y.nbytes
                kept[m] = (x, saved)
                self._kept_bytes = self._kept_bytes or _bytes(kept[m])  # microbatches are of one size
                most = max(most, len(kept))
                continue
            cotangent = self._one
            if self._after is not None:
                behind, cotangent = self._received(self._after, action, step, _examples(batch), self._outgoing)
            x, saved = kept.pop(m)
            begin = time.time()
            by_x, grads = stage.backward(arrays, x, batch, saved, cotangent, grads)
            jax.block_until_ready((by_x, grads))
            spans.append((action, begin, time.time()))
            del x, saved
            sent += by_x.nbytes if by_x is not None else 0
            if action is not last_action and self._before is not None:
                self._before.send({"kind": kind, "microbatch": m, "step": step}, by_x)
        # The last gradient to go back takes along what the stages before do not know.
        metrics = behind.get("metrics") or {name: float(sums["metrics"][name]) for name in stage.sum_names}
        stop = behind.get("stop", stop)
        finite = True
        if stage.task.nonfinite == "skip":
            finite = behind.get("finite", math.isfinite(metrics["loss_sum"])) and bool(stage.all_finite(grads))
        busy = [sum(end - begin for _, begin, end in spans), *behind.get("busy", ())]
        every_sent = [sent, *behind.get("sent", ())]
        if self._before is not None:
            report = {"stop": stop, "metrics": metrics, "finite": finite, "busy": busy, "sent": every_sent}
            header = {"kind": last_action.kind, "microbatch": last_action.microbatch, "step": step}
            self._before.send(header | report, by_x)
        if stage.task.nonfinite == "skip":
            finite = self._agreed(finite, step)
        if waited is not None:
            waited = (self._waited() or 0.0) - waited
        return Step(grads, sums, metrics, stop, finite, spans, busy, every_sent, most * self._kept_bytes, waited)

    def _waited(self) -> float | None:
        """Of the links to other processes, since they were opened."""
        waits = [link.waited for link in (self._before, self._after) if link is not None and link.waited is not None]
        return sum(waits) if waits else None

    def _agreed(self, finite: bool, step: int) -> bool:
        """What the first stage has found, which knows of all; passed on to the last. Blocks for it."""
        if self._before is not None:
            header, _ = self._received(self._before, Action("S", 0), step, 0, None)
            finite = header["finite"]
        if self._after is not None:
            self._after.send({"kind": "S", "microbatch": 0, "step": step, "finite": finite}, None)
        return finite

    def total(self, own: float, step: int) -> float:
        """The sum of a number of each stage, the same on all: in the order of the stages, and back. Blocks."""
        with self._failing_neighbours():
            if self._before is not None:
                own += self._received(self._before, Action("N", 0), step, 0, None)[0]["number"]
            if self._after is not None:
                self._after.send({"kind": "N", "microbatch": 0, "step": step, "number": own}, None)
                own = self._received(self._after, Action("N", 1), step, 0, None)[0]["number"]
            if self._before is not None:
                self._before.send({"kind": "N", "microbatch": 1, "step": step, "number": own}, None)
            return own

    def _received(
        self, link: Link, action: Action, step: int, examples: int, kind: tuple[tuple[int, ...], Any] | None
    ) -> tuple[Mapping[str, Any], jax.Array]:
        shape, dtype = kind or ((), np.uint8)
        with profiler.span(profiler.PIPELINE_WAIT):
            header, array = link.receive((examples, *shape), dtype)
        came, expected = (header["kind"], header["microbatch"], header["step"]), (*action, step)
        if came != expected:
            raise ConnectionLost(f"a neighbouring stage sent {came} where {expected} was due")
        return header, array

    def evaluate(self, arrays: Tree, batch: Batch, number: int) -> Metrics | None:
        """The forward pass of an evaluation batch: metrics on the last stage. Blocks for its input."""
        with self._failing_neighbours():
            x = None
            if self._before is not None:
                _, x = self._received(self._before, Action("E", number), 0, _examples(batch), self._incoming)
            found = self.stage.evaluate(arrays, x, batch)
            if self._after is None:
                return found
            self._after.send({"kind": "E", "microbatch": number, "step": 0}, found)
            return None

    def return_metrics(self, number: int, metrics: Mapping[str, np.ndarray]) -> None:
        """An evaluation's metrics, to the stage before."""
        if self._before is not None:
            self._before.send({"kind": "M", "microbatch": number, "step": 0, "metrics": _listed(metrics)}, None)

    def receive_metrics(self, number: int) -> dict[str, np.ndarray]:
        """The same, from the stage after. Blocks."""
        assert self._after is not None
        header, _ = self._received(self._after, Action("M", number), 0, 0, None)
        return {name: np.asarray(value) for name, value in header["metrics"].items()}


def _examples(batch: Batch) -> int:
    return len(batch["target"])


def _listed(metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """As JSON has them."""
    return {name: np.asarray(value).tolist() for name, value in metrics.items()}


def _bytes(tree: Any) -> int:
    """Of distinct arrays."""
    return sum({id(leaf): leaf.nbytes for leaf in jax.tree.leaves(tree)}.values())
