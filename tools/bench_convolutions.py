"""The measurement `convolutions` of tools/bench.py: every convolution of the models, by three back ends in turn.

    model's blocks, traced  -->  shapes, each once  -->  forward, input gradient, kernel gradient, on one core, by
                                                         ours: what a run takes (native kernels, or XLA's products)
                                                         xla: ops.backend=xla
                                                         torch: oneDNN through PyTorch, channels last

A round has each side once, some calls in a row; the order turns round. Figures are medians of rounds.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from bench_train import MODELS

OPERATIONS = ("forward", "input gradient", "kernel gradient")
_LEAST_SECONDS = 0.004  # of the calls that are timed together
Call = Callable[[], Any]


class Shape(NamedTuple):
    """A convolution of square images: their size and channels, outputs, taps, stride, padding on all sides."""

    size: int
    inputs: int
    outputs: int
    taps: int
    stride: int
    padding: int

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.taps) // self.stride + 1

    def flops(self, batch: int) -> float:
        """Of each of the three operations, two for a multiplication."""
        return 2.0 * batch * self.out_size**2 * self.taps**2 * self.inputs * self.outputs

    def __str__(self) -> str:
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.size}x{self.size}, {self.inputs} to {self.outputs}, {self.taps}x{self.taps}{stride}"


def shapes_of(model: str) -> list[Shape]:
    """Those of a model, each once, in the order of its layers."""
    import jax

    from jaxdist import models, ops
    from jaxdist.models import layers

    found: dict[Shape, None] = {}

    def noted(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any) -> jax.Array:
        inputs, outputs = kernel.shape[2:]
        found[Shape(x.shape[1], inputs, outputs, kernel.shape[0], strides[0], padding[0][0])] = None
        return made(x, kernel, strides, padding)

    made, layers.ops.conv = ops.conv, noted  # type: ignore[assignment]
    try:
        models.build(**MODELS[model], num_outputs=10, options={}).shapes  # noqa: B018 - traces the blocks
    finally:
        layers.ops.conv = made
    return list(found)


def measure(chosen: Sequence[str], batch: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A line for each convolution and operation."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from jaxdist.ops import backend
    from jaxdist.profiling.peak import matrix_flops
    from jaxdist.runtime import allocator, compilation

    allocator.keep_freed_memory()
    compilation.enable_cache("off")
    sides: dict[str, Callable[[Shape, int], list[Call]]] = {"ours": _ours("auto"), "xla": _ours("xla")}
    if importlib.util.find_spec("torch") is not None:
        sides["torch"] = _torch
    shapes = dict.fromkeys(shape for model in chosen for shape in shapes_of(model))
    for shape in shapes:
        calls = {side: make(shape, batch) for side, make in sides.items()}
        peak = matrix_flops()
        for k, operation in enumerate(OPERATIONS):
            seconds = _alternate({side: calls[side][k] for side in calls}, rounds)
            medians = {side: float(np.median(found)) for side, found in seconds.items()}
            line: dict[str, Any] = {"bench": "convolutions", "convolution": str(shape), "operation": operation}
            line["gflops"] = {side: round(shape.flops(batch) / s / 1e9, 1) for side, s in medians.items()}
            line["share_of_peak"] = round(shape.flops(batch) / medians["ours"] / peak, 2)
            for side in medians.keys() - {"ours"}:
                ratios = [b / a for a, b in zip(seconds["ours"], seconds[side], strict=True)]
                line[f"over_{side}"] = round(float(np.median(ratios)), 2)
            yield line
    backend.use(backend.XLA)


def _alternate(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds a call, by side; each is warm."""
    times: dict[str, list[float]] = {side: [] for side in calls}
    begin = time.perf_counter()
    for call in calls.values():
        call()
    repeated = max(1, round(_LEAST_SECONDS * len(calls) / (time.perf_counter() - begin)))
    for number in range(rounds):
        for side in list(calls)[:: -1 if number % 2 else 1]:
            begin = time.perf_counter()
            for _ in range(repeated):
                calls[side]()
            times[side].append((time.perf_counter() - begin) / repeated)
    return times


def _ours(operations: str) -> Callable[[Shape, int], list[Call]]:
    def make(shape: Shape, batch: int) -> list[Call]:
        import jax

        from jaxdist.ops import backend, conv

        x, kernel, dy = map(jax.device_put, _arrays(shape, batch))
        around = ((shape.padding, shape.padding),) * 2
        backend.use(operations)
        forward = lambda x, kernel: conv(x, kernel, (shape.stride, shape.stride), around)  # noqa: E731
        compiled = [
            jax.jit(forward).lower(x, kernel).compile(),
            jax.jit(lambda x, k, dy: jax.vjp(lambda x: forward(x, k), x)[1](dy)).lower(x, kernel, dy).compile(),
            jax.jit(lambda x, k, dy: jax.vjp(lambda k: forward(x, k), k)[1](dy)).lower(x, kernel, dy).compile(),
        ]
        arguments = [(x, kernel), (x, kernel, dy), (x, kernel, dy)]
        return [partial(_whole, *pair) for pair in zip(compiled, arguments, strict=True)]

    return make


def _whole(function: Any, arguments: tuple[Any, ...]) -> Any:
    import jax

    return jax.block_until_ready(function(*arguments))


def _torch(shape: Shape, batch: int) -> list[Call]:
    import torch

    torch.set_num_threads(1)
    x, kernel, dy = _arrays(shape, batch)
    last = torch.channels_last
    image, gradient = (torch.from_numpy(a.transpose(0, 3, 1, 2)).contiguous(memory_format=last) for a in (x, dy))
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).contiguous(memory_format=last)
    stride, padding = [shape.stride] * 2, [shape.padding] * 2

    def backward(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            gradient, image, weight, None, stride, padding, [1, 1], False, [0, 0], 1, wanted
        )

    def forward() -> Any:
        with torch.no_grad():
            return torch.nn.functional.conv2d(image, weight, None, stride, padding)

    return [forward, lambda: backward(True, False, False), lambda: backward(False, True, False)]


def _arrays(shape: Shape, batch: int) -> list[np.ndarray]:
    """x, kernel and dy."""
    rng = np.random.default_rng(0)
    shapes = (
        (batch, shape.size, shape.size, shape.inputs),
        (shape.taps, shape.taps, shape.inputs, shape.outputs),
        (batch, shape.out_size, shape.out_size, shape.outputs),
    )
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each convolution; each operation's GFLOP/s, share of the peak, and ratios to the others."""
    rows = ["| convolution | " + " | ".join(OPERATIONS) + " |", "|---|" + "---|" * len(OPERATIONS)]
    for name in dict.fromkeys(line["convolution"] for line in lines):
        cells = []
        for line in (line for line in lines if line["convolution"] == name):
            beside = " ".join(f"{line[key]:.2f}" for key in ("over_xla", "over_torch") if key in line)
            cells.append(f"{line['gflops']['ours']:.0f} ({100 * line['share_of_peak']:.0f} %) {beside}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)
