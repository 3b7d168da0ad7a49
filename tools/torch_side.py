"""What every PyTorch side of a comparison needs: the model at our weights, its loss, the process group, the layout."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch_models
from torch import nn
from torch.nn import functional as F

Run = Callable[[int], None]  # so many steps
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def prepare(threads: int) -> None:
    """Threads of this process; denormal numbers are zero, as in XLA's programs."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def model_with(
    weights: Mapping[str, np.ndarray], name: str, settings: Mapping[str, Any], *, dropping: bool = True
) -> nn.Module:
    """The model `name` of `torch_models` with weights by jaxdist's paths; not `dropping`: without its dropout."""
    net = torch_models.build(name, **(settings if dropping else {**settings, "dropout": 0.0}))
    torch_models.load(net, weights)
    if not dropping:
        for module in net.modules():
            if isinstance(module, torch_models.ConvRelu | torch_models.DenseRelu):
                module.dropout = 0.0
    return net


def loss_and_norm(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """The loss and the norm of its gradient, which stays in the parameters."""
    loss = F.cross_entropy(net(images), labels)
    loss.backward()
    return loss.item(), float(sum((p.grad.double() ** 2).sum() for p in net.parameters()) ** 0.5)


def join(address: str, number: int, processes: int) -> None:
    """Meets the others at `address` (HOST:PORT of process 0), where there are any; blocks until all are there."""
    if processes > 1:
        host, port = address.split(":")
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port}
        torch.distributed.init_process_group("gloo", rank=number, world_size=processes)


def distributed(net: nn.Module, processes: int) -> nn.Module:
    """Under DDP, where there are others: alone it would only copy gradients."""
    return torch.nn.parallel.DistributedDataParallel(net) if processes > 1 else net


def quicker(trials: Sequence[Run], processes: int, rounds: int = 6, steps: int = 2) -> int:
    """Which trial is quickest here, by the medians of alternating rounds, the first left out. The processes agree."""
    times: list[list[float]] = [[] for _ in trials]
    for number in range(rounds):
        for run, into in zip(trials, times, strict=True):
            begin = time.perf_counter()
            run(steps)
            if number:
                into.append(time.perf_counter() - begin)
    chosen = torch.tensor([float(np.median(each)) for each in times])
    if processes > 1:
        torch.distributed.all_reduce(chosen)
    return int(chosen.argmin())
