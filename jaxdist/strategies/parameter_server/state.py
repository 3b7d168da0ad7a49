"""The training state as parameter servers hold it: between the canonical trees and their flat vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxdist.optim.optimizers import AVERAGE, AVERAGE_WEIGHT
from jaxdist.parallel.flat_layout import Layout, pack, unpack
from jaxdist.ps import Client, PinnedVersion, Progress, Pulled
from jaxdist.state import Position, TrainState, Tree, flatten, unflatten
from jaxdist.strategies.parameter_server.flat_model import FlatModel


@dataclasses.dataclass(frozen=True)
class PulledState:
    """Parameters and statistics as they were pulled, one device array a server, and what the servers had applied."""

    buffers: tuple[jax.Array, ...]
    version: int
    progress: Progress
    caller: Any  # the session in which it was pulled

    @classmethod
    def of(cls, pulled: Pulled, model: FlatModel) -> PulledState:
        return cls(model.put(pulled.buffers), pulled.version, pulled.progress, pulled.caller)

    @property
    def updates(self) -> int:
        return self.version

    @property
    def examples_seen(self) -> int:
        return self.progress.examples_seen

    @property
    def arrays(self) -> Tree:
        return {"params": self.buffers}


def snapshot(client: Client, model: FlatModel, *, to_evaluate: bool = False) -> PulledState:
    """One and the same version of all servers; stops nobody. Blocks for the servers.

    `to_evaluate`: with the average of the parameters, where the task has one.
    """

    def read(pinned: PinnedVersion) -> PulledState:
        buffers = pinned.buffers()
        if to_evaluate and model.task.optimizer.ema_decay:
            averages = [part.view(pinned.dtype) for part in pinned.read(f"slot/{AVERAGE}")]
            weight = pinned.vector(f"slot/{AVERAGE_WEIGHT}", pinned.dtype)[0]
            buffers = model.averaged(averages, float(weight), buffers)
        return PulledState(model.put(buffers), pinned.progress.version, pinned.progress, pinned.caller)

    return client.read_one_version(read)


def to_vectors(canonical: TrainState, layout: Layout) -> dict[str, np.ndarray]:
    """{'params', 'stats', 'slot/NAME': vector} of a canonical state; numbers stay numbers."""
    vectors = {
        "params": _vector(layout.params, canonical.params),
        "stats": _vector(layout.stats, canonical.model_state),
    }
    for slot, tree in canonical.opt_state.items():
        vectors[f"slot/{slot}"] = _slot_vector(layout, tree) if isinstance(tree, dict) else np.asarray(tree)
    return vectors


def to_canonical(pinned: PinnedVersion, layout: Layout, slot_shapes: Tree) -> TrainState:
    """The canonical state of one version of all servers. Blocks for them.

    Args:
      slot_shapes: of the optimizer's state, as `Task.slot_shapes` says.
    """
    dtype = layout.dtype
    opt_state: Tree = {}
    for slot in pinned.slots:
        like = slot_shapes[slot]
        if isinstance(like, dict):
            every = unpack(layout.params, pinned.vector(f"slot/{slot}", dtype))
            kept = {name: every[name].astype(leaf.dtype, copy=False) for name, leaf in flatten(like).items()}
            opt_state[slot] = unflatten(kept)
        else:  # a number is the same on all servers
            opt_state[slot] = pinned.vector(f"slot/{slot}", like.dtype)[0:1].reshape(()).copy()
    arrays = {
        "params": unflatten(unpack(layout.params, pinned.vector("params", dtype))),
        "model_state": unflatten(unpack(layout.stats, pinned.vector("stats", dtype))),
        "opt_state": opt_state,
    }
    return TrainState.of(arrays, pinned.progress.version, Position(pinned.progress.examples_seen, pinned.pending))


def _vector(tensors: Any, tree: Tree) -> np.ndarray:
    return pack(tensors, {name: np.asarray(leaf) for name, leaf in flatten(tree).items()})


def _slot_vector(layout: Layout, tree: Tree) -> np.ndarray:
    """Zeros stand for the parameters that a slot lacks."""
    flat = {name: np.asarray(leaf, layout.dtype) for name, leaf in flatten(tree).items()}
    missing = {t.name: np.zeros(t.shape, layout.dtype) for t in layout.params if t.name not in flat}
    return pack(layout.params, flat | missing)
