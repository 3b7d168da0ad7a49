"""One server's part of the model: arrays, a version, and an update rule that it does not look into.

Operations come in one order, the same on all shards, and are applied one at a time. Arrays are never changed in place:
an update makes new ones, so a pull, a pinned version or a snapshot keeps what it refers to and waits for nobody.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdist.optim import partial
from jaxdist.optim.partial import check_elementwise
from jaxdist.parallel.flat_layout import Layout
from jaxdist.ps import wire
from jaxdist.ps.layout_header import layout_header
from jaxdist.ps.values import Values, Vector, both


class UpdateRule(partial.Rule, Protocol):
    """An elementwise optimizer over trees (`jaxdist.optim.Optimizer`); its state is {slot: tree like params, which may
    lack some of them, or one number}."""

    def scale_momentum(self, opt_state: Any, factor: Any) -> Any: ...


class Shard:
    """The arrays of server `index` of `count`, and the gradients that wait to be applied. Thread-safe.

    Raises:
      ValueError: the rule is not elementwise, so a part of the model cannot be updated without the rest; or its state
        cannot travel.
    """

    def __init__(self, layout: Layout, index: int, count: int, rule: UpdateRule) -> None:
        check_elementwise(rule)
        self.layout = layout
        self.header = layout_header(layout)
        # With every group, so that all servers have the same slots.
        self._like = rule.init({tensor.group: np.zeros((0,), layout.dtype) for tensor in layout.params})
        self._check_state()
        self.flat_shard = layout.shard(index, count)
        self._rule = rule
        self._update = jax.jit(self._compute)
        self._mean = jax.jit(_mean_and_squares)
        self._averages = bool(getattr(rule, "ema_decay", 0.0))  # the parameters, by parts of a global batch
        self._lock = threading.Lock()
        self._staged: dict[int, wire.Arriving | memoryview] = {}
        self._pinned: dict[str, Values] = {}
        self._done: collections.OrderedDict[int, bool] = collections.OrderedDict()  # claim -> applied, or forgotten
        self._loading: dict[str, wire.Arriving] = {}
        self._loaded: set[str] = set()
        # version -> the whole as bytes, where it is longer than a chunk; what `reply_of` gives
        self._replies: collections.OrderedDict[int, tuple[bytes, list[Any], int, int]] = collections.OrderedDict()
        self.most_staged = 1024
        self.seconds: list[float] = []  # of the last updates, for measurements
        self.values = self.initial()

    def initial(self) -> Values:
        """Zeros, at version 0: what `load` fills."""
        params = jnp.zeros((self.flat_shard.num_params,), self.flat_shard.dtype)
        stats = jnp.zeros((self.flat_shard.num_stats,), self.flat_shard.dtype)
        none: dict[str, Any] = {name: {} for name, slot in self._like.items() if isinstance(slot, dict)}
        return Values(0, params, stats, none | self._rule.init(self.flat_shard.split(params)), self.flat_shard)

    def _check_state(self) -> None:
        """Slots travel in the parameters' dtype, what else the state has as numbers."""
        for name, slot in self._like.items():
            for leaf in slot.values() if isinstance(slot, dict) else [slot]:
                if isinstance(slot, dict) and not np.can_cast(leaf.dtype, self.layout.dtype):
                    raise ValueError(f"the rule's slot {name!r} is {leaf.dtype}, which {self.layout.dtype} cannot hold")
                if not isinstance(slot, dict) and leaf.ndim:
                    raise ValueError(f"the rule's slot {name!r} is one array {list(leaf.shape)}, not a number")

    # Values from outside.

    def load(self, what: str, vectors: Vector) -> None:
        """Replaces 'params', 'stats' or 'slot/NAME'; the version does not change.

        Raises:
          ValueError: unknown, or of another size.
        """
        now = self.values
        if what in ("params", "stats"):
            expected: Any = getattr(now, what)
            self._same_size(what, vectors.size, expected.size)
            replaced: dict[str, Any] = {what: jnp.array(vectors)}
            self.values = dataclasses.replace(now, **replaced)
            return
        name = what.removeprefix("slot/")
        if name not in now.state:
            raise ValueError(f"the rule has no slot {name!r}, but {', '.join(sorted(now.state)) or 'none'}")
        slot = now.state[name]
        if isinstance(slot, dict):
            self._same_size(what, vectors.size, self.flat_shard.num_params)
            own = self.flat_shard.split(vectors).items()
            loaded: Any = {g: jnp.array(v, slot[g].dtype) for g, v in own if g in slot}
        else:
            self._same_size(what, vectors.size, 1)
            loaded = jnp.array(vectors.reshape(()), np.asarray(slot).dtype)
        self.values = dataclasses.replace(now, state=now.state | {name: loaded})

    def load_part(self, what: str, offset: int, total: int, data: memoryview) -> None:
        """`load` in chunks, each once; takes effect with the last."""
        limit = 8 * max(self.flat_shard.num_params, self.flat_shard.num_stats, 8)
        if total > limit or not wire.Arriving.fits(offset, total, data):
            raise ValueError(f"{what!r}: {len(data)} bytes at {offset} of {total} do not fit this server")
        if what not in ("params", "stats") and what.removeprefix("slot/") not in self.values.state:
            raise ValueError(f"the rule has no slot {what!r}")
        with self._lock:
            if what in self._loaded:  # sent again
                return
            entry = self._loading.setdefault(what, wire.Arriving(total))
            if len(entry.buffer) != total:
                raise ValueError(f"{what!r} has {total} bytes now, and had {len(entry.buffer)}")
            entry.add(offset, data)
            if not entry.whole:
                return
            del self._loading[what]
            self._loaded.add(what)
            self.load(what, np.frombuffer(entry.buffer, self.slot_dtype(what)))

    @property
    def is_loaded(self) -> bool:
        """Whether the values have come; slots that have not are the rule's initial ones."""
        return self._loaded >= {"params", "stats"}

    @staticmethod
    def _same_size(what: str, given: int, expected: int) -> None:
        if given != expected:
            raise ValueError(f"{what!r} has {given} elements instead of {expected}")

    def slot_dtype(self, what: str) -> np.dtype:
        """The dtype in which `what` travels."""
        slot = self.values.state.get(what.removeprefix("slot/"))
        if what in ("params", "stats") or isinstance(slot, dict) or slot is None:
            return self.flat_shard.dtype
        return np.asarray(slot).dtype

    def begin(self, version: int) -> None:
        """The loaded values are those of `version`."""
        with self._lock:
            self.values = dataclasses.replace(self.values, version=version)
            self._staged.clear()
            self._done.clear()
            self._pinned.clear()
            self._replies.clear()

    # Gradients.

    def stage(self, claim: int, offset: int, total: int, data: memoryview) -> None:
        """Keeps (part of) a gradient and statistics until the operation that applies them; the same again is harmless.

        Raises:
          ValueError: sizes that do not fit.
        """
        mine = self.flat_shard
        if total != mine.num_bytes or not wire.Arriving.fits(offset, total, data):
            raise ValueError(
                f"{len(data)} bytes at {offset} of {total} do not fit this server's {mine.num_bytes} "
                f"({mine.num_params} parameters and {mine.num_stats} statistics of {mine.dtype})"
            )
        with self._lock:
            if claim in self._done:  # sent again, or too late
                return
            if len(self._staged) >= self.most_staged and claim not in self._staged:
                raise ValueError(f"{self.most_staged} gradients wait to be applied already")
            if len(data) == total:  # no need to copy it
                self._staged[claim] = data
                return
            entry = self._staged.setdefault(claim, wire.Arriving(total))
            assert isinstance(entry, wire.Arriving)  # chunks of one total are all of the size that it implies
            entry.add(offset, data)

    def is_staged(self, claim: int) -> bool:
        with self._lock:
            entry = self._staged.get(claim)
            whole = entry.whole if isinstance(entry, wire.Arriving) else entry is not None
            return claim in self._done or whole

    def _note_done(self, claim: int, applied: bool) -> None:
        self._done[claim] = applied
        while len(self._done) > 4096:
            self._done.popitem(last=False)

    def is_applied(self, claim: int) -> bool:
        """Whether the values include the push of a claim (one of the last few thousand)."""
        with self._lock:
            return self._done.get(claim, False)

    def forget(self, claims: Sequence[int]) -> None:
        """Drops gradients that nobody will ask to apply."""
        with self._lock:
            for claim in claims:
                self._staged.pop(claim, None)
                self._note_done(claim, False)

    def update(
        self,
        version: int,
        claims: Sequence[int],
        learning_rate: float,
        stats_weight: float,
        momentum_cut: float = 0.0,
        part: float = 1.0,
        *,
        clip: tuple[float, Callable[[float], float | None]] | None = None,
    ) -> bool:
        """Applies the mean of staged gradients as one update; False where it was given up.

        Args:
          stats_weight: see `_compute`.
          momentum_cut: what part of the momentum is dropped before.
          part: of a global batch that the update is of.
          clip: (norm that the mean is scaled down to, sum of squares here -> over all servers, or None to give up).
        """
        begin = time.perf_counter()
        with self._lock:
            staged = [self._staged.pop(claim) for claim in claims]
            for claim in claims:  # from now on a push that is sent again is not staged again
                self._note_done(claim, False)
            buffers = [s.buffer if isinstance(s, wire.Arriving) else s for s in staged]
        arrived = [np.frombuffer(b, self.flat_shard.dtype) for b in buffers]
        now, cut = self.values, self.flat_shard.num_params
        grads = tuple(a[:cut] for a in arrived)
        if clip is not None:
            limit, over_all = clip
            mean, squares = self._mean(grads)
            total = over_all(float(squares))
            if total is None:
                return False
            grads = (np.asarray(mean) * np.asarray(limit / max(math.sqrt(total), limit), mean.dtype),)
        params, stats, state = self._update(
            now.params,
            now.stats,
            now.state,
            grads,
            tuple(a[cut:] for a in arrived),
            np.asarray(learning_rate, self.flat_shard.dtype),
            np.asarray(stats_weight, self.flat_shard.dtype),
            np.asarray(1.0 - momentum_cut, self.flat_shard.dtype),
            *([np.asarray(part, self.flat_shard.dtype)] if self._averages else []),
        )
        jax.block_until_ready(params)
        self.values = Values(version, params, stats, state, self.flat_shard)
        with self._lock:
            for claim in claims:
                self._note_done(claim, True)
        self.seconds.append(time.perf_counter() - begin)
        del self.seconds[:-1000]
        return True

    def _compute(
        self,
        params: Any,
        stats: Any,
        state: Any,
        grads: Any,
        new_stats: Any,
        learning_rate: Any,
        weight: Any,
        momentum_scale: Any,
        *part: Any,
    ) -> tuple[Any, Any, Any]:
        """One update of this flat shard. The statistics move `weight` of the way to the mean of the workers' new ones.

        With weight 1 / (1 + staleness) a worker alone writes exactly its own, N workers in turn keep the pace of one
        (each of N pushes moves 1/N of the way), and one that is very late hardly moves them; they stay a convex
        combination, so a variance cannot become negative.
        """
        mean = _mean_of(grads)
        state = self._rule.scale_momentum(state, momentum_scale)
        new_params, state = self._rule.update(
            self.flat_shard.split(mean), state, self.flat_shard.split(params), jnp.asarray(learning_rate), *part
        )
        merged = (1 - weight) * stats + weight * _mean_of(new_stats)
        parts = [new_params[g] for g in self.flat_shard.groups]
        return jnp.concatenate(parts) if parts else params, merged, state

    # Values to the outside.

    def pin(self, name: str) -> None:
        """Keeps the present values for a reader, in place of those pinned under that name before."""
        with self._lock:
            self._pinned[name] = self.values

    def unpin(self, name: str) -> None:
        with self._lock:
            self._pinned.pop(name, None)

    def pinned(self, name: str) -> Values | None:
        with self._lock:
            return self._pinned.get(name)

    def reply_of(self, values: Values) -> tuple[list[Any], int, int]:
        """(parameters and statistics as buffers end to end, of one chunk at most; its checksum; bytes of the whole);
        made once a version, for all who pull it."""
        with self._lock:
            found = self._replies.get(values.version)
        if found is None:
            parts: list[Any] = [values.flat(what).view(np.uint8) for what in ("params", "stats")]
            size = sum(map(len, parts))
            whole = b"" if size <= wire.CHUNK else both(values)  # one message: the parts are copied once, into it
            parts = [memoryview(whole)[: wire.CHUNK]] if whole else parts
            found = whole, parts, wire.checksum(parts), size
            with self._lock:
                self._replies[values.version] = found
                while len(self._replies) > (1 if size <= wire.CHUNK else 4):
                    self._replies.popitem(last=False)
        return found[1:]

    def recent(self, version: int) -> bytes:
        """What `reply_of` gave for a version, for a caller that takes it in chunks.

        Raises:
          LookupError: it has been superseded meanwhile.
        """
        with self._lock:
            if version not in self._replies:
                raise LookupError(f"version {version} is gone; pull again")
            return self._replies[version][0]

    def restore(self, version: int, vectors: Mapping[str, Vector]) -> None:
        """Goes back to a snapshot; everything staged or pinned is forgotten."""
        self.values = self.initial()
        for what, vector in vectors.items():
            self.load(what, vector)
        self.begin(version)


def _mean_of(vectors: Sequence[Any]) -> Any:
    return sum(vectors[1:], vectors[0]) / len(vectors)


def _mean_and_squares(grads: Sequence[Any]) -> tuple[Any, Any]:
    """(mean, its sum of squares)."""
    mean = _mean_of(grads)
    return mean, jnp.sum(jnp.square(mean))
