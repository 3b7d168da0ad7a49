"""The model families in PyTorch, module for module and name for name, so that weights move over by their paths.

jaxdist   dense1_layer1/conv1/kernel [height, width, in, out]     PyTorch   dense1_layer1.conv1.weight [out, in, h, w]
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def _conv(inputs: int, outputs: int, kernel: int, strides: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=strides, padding=(kernel - 1) // 2, bias=False)


class Stem(nn.Module):
    def __init__(self, inputs: int, features: int, activate: bool = False) -> None:
        super().__init__()
        self.conv = _conv(inputs, features, 3)
        self.norm = nn.BatchNorm2d(features) if activate else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x if self.norm is None else F.relu(self.norm(x), inplace=True)


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv(inputs, 4 * growth, 1)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = _conv(4 * growth, growth, 3)
        self.dropout = dropout

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._drop(self.conv1(F.relu(self.norm1(x), inplace=True)))
        y = self._drop(self.conv2(F.relu(self.norm2(y), inplace=True)))
        return torch.cat([x, y], 1)


class Transition(nn.Module):
    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = _conv(inputs, outputs, 1)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(F.relu(self.norm(x), inplace=True))
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        return F.avg_pool2d(x, 2)


class Head(nn.Module):
    """The blocks Classifier, Head and ActivatedClassifier."""

    def __init__(self, inputs: int, num_classes: int, activate: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs) if activate else None
        self.dense = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm is not None:
            x = F.relu(self.norm(x), inplace=True)
        return self.dense(x.mean((2, 3)))


class BasicBlock(nn.Module):
    """Version 1, with the parameter-free shortcut."""

    def __init__(self, inputs: int, features: int, strides: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, features, 3, strides)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = _conv(features, features, 3)
        self.norm2 = nn.BatchNorm2d(features)
        self.strides, self.missing = strides, features - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.missing or self.strides != 1:
            low = self.missing // 2
            x = F.pad(x[:, :, :: self.strides, :: self.strides], (0, 0, 0, 0, low, self.missing - low))
        return F.relu(x + y, inplace=True)


class BottleneckBlock(nn.Module):
    """Version 2."""

    def __init__(self, inputs: int, features: int, strides: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        same = strides == 1 and inputs == features
        self.shortcut = None if same else _conv(inputs, features, 1, strides)
        self.conv1 = _conv(inputs, features // 4, 1)
        self.norm2 = nn.BatchNorm2d(features // 4)
        self.conv2 = _conv(features // 4, features // 4, 3, strides)
        self.norm3 = nn.BatchNorm2d(features // 4)
        self.conv3 = _conv(features // 4, features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        y = F.relu(self.norm2(self.conv1(active)), inplace=True)
        y = F.relu(self.norm3(self.conv2(y)), inplace=True)
        return shortcut + self.conv3(y)


class ConvRelu(nn.Module):
    def __init__(self, inputs: int, features: int, pool: bool, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, features, 3)
        self.pool, self.dropout = pool, dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(x), inplace=True)
        if self.pool:
            x = F.max_pool2d(x, 2)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class DenseRelu(nn.Module):
    def __init__(self, inputs: int, features: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, features)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # jaxdist flattens [height, width, channels].
        x = F.relu(self.dense(x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x), inplace=True)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Logits(nn.Module):
    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x)


def build(name: str, depth: int = 0, version: int = 1, dropout: float = 0.0) -> nn.Module:
    """The models that tools/bench.py compares: 'densenet' (BC, growth rate 12), 'resnet' or 'cnn', for ten classes."""
    if name == "cnn":
        blocks = {
            "conv1": ConvRelu(1, 32, False, 0.0), "conv2": ConvRelu(32, 64, True, 0.25),
            "dense": DenseRelu(9216, 128, 0.5), "head": Logits(128, 10),
        }  # fmt: skip
        return nn.Sequential(OrderedDict(blocks))
    if name == "densenet":
        channels = 24
        found: list[tuple[str, nn.Module]] = [("stem", Stem(1, channels))]
        for stage in (1, 2, 3):
            for layer in range((depth - 4) // 6):
                found.append((f"dense{stage}_layer{layer + 1}", DenseLayer(channels, 12, dropout)))
                channels += 12
            if stage < 3:
                found.append((f"transition{stage}", Transition(channels, channels // 2, dropout)))
                channels //= 2
        return nn.Sequential(OrderedDict([*found, ("head", Head(channels, 10, True))]))
    found = [("stem", Stem(3, 16, version == 1))]
    channels, block, width = 16, (BasicBlock, BottleneckBlock)[version - 1], 16 * (1, 4)[version - 1]
    for stage in range(3):
        for layer in range((depth - 2) // (6, 9)[version - 1]):
            strides, features = (2 if stage and not layer else 1), width * 2**stage
            found.append((f"stage{stage + 1}_block{layer + 1}", block(channels, features, strides)))
            channels = features
    return nn.Sequential(OrderedDict([*found, ("head", Head(channels, 10, version == 2))]))


def load(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Weights by jaxdist's paths into `model`.

    Raises:
      KeyError: a parameter of the model is not among them.
    """
    known = {path.replace("/classifier", ""): value for path, value in weights.items()}
    for name, parameter in model.named_parameters():
        path, _, last = name.replace(".", "/").rpartition("/")
        if last == "bias" or f"{path}/scale" in known:
            value = known[f"{path}/{'bias' if last == 'bias' else 'scale'}"]
        else:
            value = known[f"{path}/kernel"]
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
