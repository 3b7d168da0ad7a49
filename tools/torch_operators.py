"""The operator table of PyTorch's steps, by torch.profiler, in the words of operator_kinds.py.

An operator's kind is that of the nearest of its callers with a known name: a copy inside a convolution is part of the
convolution, a multiplication inside the optimizer is part of the update. Only the thread that trains counts: what gloo
does meanwhile in threads of its own is seen where this thread waits for it.

oneDNN computes both gradients of a convolution in one operator, `convolution_backward`. Each of its calls is divided as
two calls with the same arguments, timed afterwards, that compute the input's gradient alone and the rest alone.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import operator_kinds as kinds
import torch
from torch.profiler import ProfilerActivity, profile, record_function

BACKWARD = "step::backward"  # its own time is DDP's wait for the sums, where there are other processes
OPTIMIZER, DATA, FORWARD = "step::optimizer", "step::data", "step::forward"
BOTH_GRADIENTS = "aten::convolution_backward"

# The first that matches a name.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"aten::(conv2d|_?convolution|mkldnn_convolution|thnn_conv2d|_slow_conv2d_forward)$", kinds.CONVOLUTION_FORWARD),
    (r"batch_norm_backward|BatchNormBackward", kinds.BATCH_NORM_BACKWARD),
    (r"aten::\w*batch_norm", kinds.BATCH_NORM),
    (r"threshold_backward|ReluBackward", kinds.RELU_BACKWARD),
    (r"aten::(relu_?|clamp_min_?)$", kinds.RELU),
    (r"aten::(\w*dropout|bernoulli_?)$|DropoutBackward|MulBackward0", kinds.DROPOUT),  # no other product is derived
    (r"pool\w*_backward|PoolBackward|Pool2D\w*Backward|MeanBackward", kinds.POOLING_BACKWARD),
    (r"aten::(\w*pool2d\w*|mean)$", kinds.POOLING),
    (r"cross_entropy|log_softmax|nll_loss|LogSoftmax|NllLoss", kinds.LOSS),
    (r"aten::(addmm|mm|bmm|matmul|linear)$|(Addmm|Mm|Linear)Backward", kinds.MATRIX),
    (r"^Optimizer\.|^step::optimizer$", kinds.OPTIMIZER),
    (r"^step::data$", kinds.DATA),
    (r"c10d::|DistributedDataParallel", kinds.COLLECTIVE),
)
_UNDER_DDP = re.compile(r"AccumulateGrad|^step::backward$")  # copies into and out of the buckets, and the wait


def kind_of(names: Sequence[str], processes: int) -> str:
    """Of an operator: `names` are its own and those of its callers, the nearest first."""
    for name in names:
        for pattern, kind in _NAMES:
            if re.search(pattern, name):
                return kind
        if _UNDER_DDP.search(name):
            return kinds.COLLECTIVE if processes > 1 else kinds.OTHER
    return kinds.OTHER


def table(step: Callable[[], None], *, steps: int, processes: int, layout: torch.memory_format) -> dict[str, Any]:
    """Runs `steps` steps under the profiler; its `rows` are a step's: kind, calls, self_ms, share.

    The rows add up to `step_ms`; what lies between the operators is in the row 'other'. `step_ms_unprofiled` is that of
    as many steps before, without the profiler.
    """
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    plain = time.perf_counter() - begin
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        whole = time.perf_counter() - begin
    events = [e for e in profiled.events() or [] if "gloo:" not in e.name]
    own = next((e.thread for e in events if e.name == BACKWARD), None)
    if own is None:
        raise RuntimeError(f"the profiler has no event {BACKWARD}")
    halves = _Halves(layout)
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, float] = defaultdict(float)
    for event in (e for e in events if e.thread == own):
        callers = _with_callers(event)
        both = next((e for e in callers if e.name == BOTH_GRADIENTS), None)
        seconds = event.self_cpu_time_total / 1e6
        if both is not None:
            part = halves.input_share(both)
            for kind, share in ((kinds.CONVOLUTION_INPUT, part), (kinds.CONVOLUTION_KERNEL, 1 - part)):
                spent[kind] += seconds * share
                calls[kind] += event is both and share > 0
            continue
        kind = kind_of([e.name for e in callers], processes)
        spent[kind] += seconds
        calls[kind] += _is_operator(event) and not any(_is_operator(e) for e in callers[1:])
    spent[kinds.OTHER] += max(whole - sum(spent.values()), 0.0)
    rows = [
        {
            "kind": kind,
            "calls": round(calls[kind] / steps, 2),
            "self_ms": round(1e3 * spent[kind] / steps, 4),
            "share": round(spent[kind] / whole, 5),
        }
        for kind in kinds.KINDS
        if kind in spent
    ]
    return {
        "rows": rows,
        "step_ms": round(1e3 * whole / steps, 3),
        "step_ms_unprofiled": round(1e3 * plain / steps, 3),
        "steps": steps,
        "how_gradients_are_divided": "by timing each half alone",
    }


def _is_operator(event: Any) -> bool:
    return event.name.startswith(("aten::", "c10d::"))


def _with_callers(event: Any) -> list[Any]:
    found = []
    while event is not None:
        found.append(event)
        event = event.cpu_parent
    return found


class _Halves:
    """How long the gradient of a convolution's input takes, of that and the rest; measured once for each shape."""

    def __init__(self, layout: torch.memory_format) -> None:
        self._layout = layout
        self._known: dict[str, float] = {}

    def input_share(self, event: Any) -> float:
        shapes, values = event.input_shapes[:3], event.concrete_inputs
        key = f"{shapes} {values[3:]}"
        if key not in self._known:
            self._known[key] = self._measure(shapes, values)
        return self._known[key]

    def _measure(self, shapes: Any, values: Any, rounds: int = 4) -> float:
        out, image, kernel = (
            torch.randn(shape).contiguous(memory_format=self._layout) if len(shape) == 4 else torch.randn(shape)
            for shape in shapes
        )
        bias, stride, padding, dilation, transposed, output_padding, groups, mask = values[3:11]
        if not mask[0]:
            return 0.0
        if not mask[1]:
            return 1.0

        def seconds(wanted: list[bool]) -> float:
            times = []
            for _ in range(rounds):
                begin = time.perf_counter()
                torch.ops.aten.convolution_backward(
                    out, image, kernel, bias, stride, padding, dilation, transposed, output_padding, groups, wanted
                )
                times.append(time.perf_counter() - begin)
            return min(times[1:])

        first, second = seconds([True, False, False]), seconds([False, mask[1], mask[2]])
        return first / (first + second)


def named(name: str) -> Any:
    """A part of the step as the profiler shall see it."""
    return record_function(name)
