"""How the training examples are distributed over workers: each draws from its own part alone.

    iid                      at random, equally many
    dirichlet(alpha=0.5)     each class by proportions drawn from Dirichlet(alpha): the smaller alpha, the more uneven
    shards(k=2)              sorted by target, cut into k shards a worker, which get k each at random
    classes(k=2)             k classes a worker; those of a class share its examples
    sizes(1,2,4)             at random, in such proportions
    continuous(strictness=1) sorted by target, strictly (1) to not at all (0), and cut

Names and meanings are those of Flower's partitioners (Dirichlet, Shard, Pathological, Size, Continuous). Where Flower
leaves out examples (classes that nobody has), a partition here is refused: every example is somebody's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from jaxdist.data.stream import ExampleStream
from jaxdist.errors import UsageError, nearest

Parts = list[np.ndarray]  # rows, of each worker

_ATTEMPTS = 100


@dataclasses.dataclass(frozen=True)
class Partition:
    """The rows of each of so many workers.

    Attributes:
      text: `data.partition`.
      parts: int64, of each worker in order.
    """

    text: str
    parts: Parts

    @cached_property
    def digest(self) -> str:
        """Of who has what."""
        found = hashlib.sha256()
        for part in self.parts:
            found.update(len(part).to_bytes(8, "little") + np.ascontiguousarray(part, "<i8").tobytes())
        return found.hexdigest()[:16]

    def targets(self, target: np.ndarray, num_classes: int, bins: int = 10) -> dict[str, Any]:
        """How many examples, and how many of each class (or of each of equal ranges of the target), a worker has."""
        found: dict[str, Any] = {"partition": self.text, "examples_per_worker": [len(part) for part in self.parts]}
        if target.ndim > 1 and target.shape[1:] != (1,):
            return found
        flat = target.reshape(-1)
        are_classes = num_classes and flat.dtype.kind in "iu" and flat.min() >= 0 and flat.max() < num_classes
        if are_classes:
            return found | {
                "targets_per_worker": [np.bincount(flat[part], minlength=num_classes).tolist() for part in self.parts]
            }
        edges = np.linspace(flat.min(), flat.max(), bins + 1)
        counts = [np.histogram(flat[part], edges)[0].tolist() for part in self.parts]
        return found | {"targets_per_worker": counts, "target_edges": [round(float(edge), 6) for edge in edges]}


def partition(text: str, target: np.ndarray, num_workers: int, seed: int, num_classes: int = 0) -> Partition:
    """The rows of each worker; a function of its arguments alone.

    Args:
      text: as `parse` takes it.
      target: [n, ...], of the training examples.

    Raises:
      UsageError: it does not fit the targets, or leaves a worker without examples; with the numbers.
    """
    name, values = parse(text)
    examples = _Examples(target, num_classes, num_workers, np.random.default_rng([seed, num_workers, 23]))
    try:
        parts = PARTITIONERS[name](examples, **values)
    except ValueError as e:
        raise UsageError(f"data.partition={text!r}: {e}.") from e
    sizes = [len(part) for part in parts]
    if min(sizes) < 1:
        raise UsageError(
            f"data.partition={text!r} gives the {num_workers} workers {', '.join(map(str, sizes))} examples, and none "
            "may have none: use fewer workers, more examples or a milder partition."
        )
    return Partition(text, [np.sort(part).astype(np.int64) for part in parts])


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """'NAME', 'NAME(KEY=VALUE)' or 'NAME(VALUE)' -> (name, arguments).

    Raises:
      UsageError: there is no such partition, or a value that it cannot have.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    name = found.group(1) if found else text
    if found is None or name not in PARTITIONERS:
        known = ", ".join(EXAMPLES)
        raise UsageError(f"data.partition={text!r} is not known{nearest(name, PARTITIONERS)}; as in {known}.")
    given = [word.strip() for word in (found.group(2) or "").split(",") if word.strip()]
    keys = list(inspect.signature(PARTITIONERS[name]).parameters)[1:]
    try:
        if name == "sizes":
            return name, {keys[0]: tuple(_number(word) for word in given)}
        pairs = [word.split("=", 1) if "=" in word else (keys[i], word) for i, word in enumerate(given)]
        values = {key.strip(): _number(value) for key, value in pairs}
    except (ValueError, IndexError) as e:
        raise UsageError(f"data.partition={text!r} cannot be read ({e}); as in {', '.join(EXAMPLES)}.") from e
    if unknown := sorted(values.keys() - set(keys)):
        raise UsageError(
            f"data.partition={text!r}: {name} has no {unknown[0]!r}; it has {', '.join(keys) or 'nothing'}."
        )
    return name, values


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else float(text)


@dataclasses.dataclass(frozen=True)
class _Examples:
    target: np.ndarray
    num_classes: int
    workers: int
    rng: np.random.Generator

    def __len__(self) -> int:
        return len(self.target)

    @property
    def values(self) -> np.ndarray:
        """One number an example."""
        if self.target.ndim > 1 and self.target.shape[1:] != (1,):
            raise ValueError(f"the targets are {list(self.target.shape)}, and it needs one number an example")
        return self.target.reshape(-1)

    @property
    def classes(self) -> np.ndarray:
        if not self.num_classes:
            raise ValueError("it distributes classes, and the targets are numbers; use continuous(strictness=...)")
        return self.values


def iid(examples: _Examples) -> Parts:
    return np.array_split(examples.rng.permutation(len(examples)), examples.workers)


def sizes(examples: _Examples, proportions: tuple[float, ...] = ()) -> Parts:
    if len(proportions) != examples.workers:
        raise ValueError(f"it has {len(proportions)} numbers for {examples.workers} workers")
    if min(proportions) <= 0:
        raise ValueError("each number must be above 0")
    ends = np.cumsum(proportions)[:-1] / sum(proportions)
    return np.split(examples.rng.permutation(len(examples)), np.round(ends * len(examples)).astype(int))


def dirichlet(examples: _Examples, alpha: float = 0.5, min_size: int = 1) -> Parts:
    """Hsu et al. 2019 (arXiv:1909.06335); a worker that has its n / N examples gets no more of the next class.

    Drawn anew until every worker has `min_size`.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha={alpha} must be above 0 and finite")
    labels, count = examples.classes, examples.workers
    sizes: list[int] = []
    for _ in range(_ATTEMPTS):
        parts: list[list[np.ndarray]] = [[] for _ in range(count)]
        for label in range(examples.num_classes):
            rows = examples.rng.permutation(np.flatnonzero(labels == label))
            shares = examples.rng.dirichlet(np.full(count, float(alpha)))
            sizes = [sum(map(len, part)) for part in parts]
            shares = shares * (np.array(sizes) < len(examples) / count)
            if not shares.sum() > 0:
                shares = (np.array(sizes) == min(sizes)).astype(float)
            ends = np.round(np.cumsum(shares / shares.sum())[:-1] * len(rows)).astype(int)
            for part, own in zip(parts, np.split(rows, ends), strict=True):
                part.append(own)
        sizes = [sum(map(len, part)) for part in parts]
        if min(sizes) >= min_size:
            return [np.concatenate(part) for part in parts]
    raise ValueError(
        f"after {_ATTEMPTS} draws a worker has still fewer than {min_size} of {len(examples)} examples (the last draw: "
        f"{', '.join(map(str, sizes))}); a larger alpha, fewer workers or more examples"
    )


def shards(examples: _Examples, k: int = 2) -> Parts:
    """McMahan et al. 2017 (arXiv:1602.05629), section 3."""
    if k < 1 or k != int(k):
        raise ValueError(f"k={k} must be 1 or more")
    count = examples.workers * int(k)
    shuffled = examples.rng.permutation(len(examples))  # ties in no order
    pieces = np.array_split(shuffled[np.argsort(examples.values[shuffled], kind="stable")], count)
    dealt = examples.rng.permutation(count).reshape(examples.workers, int(k))
    return [np.concatenate([pieces[i] for i in own]) for own in dealt]


def classes(examples: _Examples, k: int = 2) -> Parts:
    labels, there = examples.classes, examples.num_classes
    if not 1 <= k <= there or k != int(k):
        raise ValueError(f"k={k} must be 1 to the number of classes, {there}")
    if examples.workers * k < there:
        raise ValueError(
            f"{examples.workers} workers of {int(k)} classes have {examples.workers * int(k)} of the {there} classes, "
            f"and the others' examples would be nobody's: k={-(-there // examples.workers)} or more"
        )
    order = examples.rng.permutation(there)
    own = [{int(order[(w * int(k) + j) % there]) for j in range(int(k))} for w in range(examples.workers)]
    parts: list[list[np.ndarray]] = [[] for _ in own]
    for label in range(there):
        holders = [w for w, mine in enumerate(own) if label in mine]
        rows = examples.rng.permutation(np.flatnonzero(labels == label))
        for worker, piece in zip(holders, np.array_split(rows, len(holders)), strict=True):
            parts[worker].append(piece)
    return [np.concatenate(part) for part in parts]


def continuous(examples: _Examples, strictness: float = 0.5) -> Parts:
    """Sorted by strictness * standardised target + (1 - strictness) * normal noise."""
    if not 0 <= strictness <= 1:
        raise ValueError(f"strictness={strictness} must be 0 to 1")
    values = examples.values.astype(np.float64)
    standard = (values - values.mean()) / (values.std() or 1.0)
    blended = strictness * standard + (1 - strictness) * examples.rng.normal(size=len(values))
    return np.array_split(np.argsort(blended, kind="stable"), examples.workers)


PARTITIONERS: dict[str, Callable[..., Parts]] = {
    "iid": iid, "dirichlet": dirichlet, "shards": shards, "classes": classes, "sizes": sizes, "continuous": continuous,
}  # fmt: skip
EXAMPLES = (
    "iid", "dirichlet(alpha=0.5)", "shards(k=2)", "classes(k=2)", "sizes(1,2,4)", "continuous(strictness=0.5)",
)  # fmt: skip


class PartitionedStream:
    """Maps positions of the one stream to rows, so that each worker's positions are rows of its own part.

        position   | 0 .. s-1   | s .. 2s-1  | ... | (N-1)s .. Ns-1 | Ns ..        s = global_batch_size / N
        worker     | 0          | 1          | ... | N-1            | 0            each goes through its own part

    A block of s positions is a worker's share of a global batch. Worker w's blocks, one after the other, are its own
    stream: permutations of its part, made from (seed, w, epoch). Parts of unequal sizes wrap round: an epoch is as long
    as the largest part, N times, so that every example is seen in it.
    """

    def __init__(self, partition: Partition, share: int, seed: int) -> None:
        self._parts, self.share = partition.parts, share
        self._own = [ExampleStream(len(part), seed, worker) for worker, part in enumerate(self._parts)]
        self.num_examples = sum(map(len, self._parts))
        self.examples_per_epoch = len(self._parts) * max(map(len, self._parts))

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Rows at `positions` (int64 [b]): int64 [b]. Called from any thread."""
        blocks, inside = np.divmod(np.asarray(positions, np.int64), self.share)
        rounds, workers = np.divmod(blocks, len(self._parts))
        own = rounds * self.share + inside
        rows = np.empty_like(own)
        for worker in np.unique(workers):
            mine = workers == worker
            rows[mine] = self._parts[worker][self._own[worker].rows(own[mine])]
        return rows
