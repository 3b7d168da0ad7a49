"""Which dims of which arrays lie along which axes of the mesh, as data: an ordered list of rules, the first match wins.

    dense\\d+_layer\\d+/conv1/kernel = -,-,-,model        a regular expression (searched for in block/layer/name)
    dense\\d+_layer\\d+/conv2/kernel = -,-,model,-        and, for each dim, an axis or '-'

An array that no rule matches is whole on every device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Partition = tuple[str | None, ...]


class Rule(NamedTuple):
    """`pattern` is searched for in an array's path; `partition` has an axis or None for each of its dims."""

    pattern: str
    partition: Partition

    def __str__(self) -> str:
        return f"{self.pattern} = {','.join(axis or '-' for axis in self.partition)}"


class Assignment(NamedTuple):
    """What the rules make of a model.

    Attributes:
      partitions: {path: partition}, () for an array that is whole everywhere.
      kept_whole: {path: why}: arrays that a rule would have split, and could not.
    """

    partitions: dict[str, Partition]
    kept_whole: dict[str, str]


def parse(text: str) -> tuple[Rule, ...]:
    """Rules as text, separated by ';'. Axes are separated by commas or blanks (schedules have commas of their own).

    Raises:
      ValueError: one cannot be read.
    """
    rules = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        pattern, equals, partition = (piece.strip() for piece in part.rpartition("="))
        if not equals or not pattern or not partition:
            raise ValueError(f"the rule {part!r} is not PATTERN = PARTITION, as in 'conv1/kernel = -,-,-,model'")
        try:
            re.compile(pattern)
        except re.error as e:
            raise ValueError(f"the pattern {pattern!r} is no regular expression: {e}") from None
        rules.append(Rule(pattern, tuple(None if axis == "-" else axis for axis in re.split(r"[,\s]+", partition))))
    return tuple(rules)


def assign(
    rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], *, strict: bool
) -> Assignment:
    """The partition of each array.

    Args:
      shapes: {path: shape}.
      sizes: {axis: devices along it}.
      strict: whether a rule that matches nothing, or a dim that its axis does not divide, is an error (rules that the
        user wrote) or not (rules of a family of models, which has members without some layers): then an array that
        does not divide is whole.

    Raises:
      ValueError: the above; an unknown axis; one axis twice; more dims than the array has.
    """
    partitions: dict[str, Partition] = dict.fromkeys(shapes, ())
    kept_whole: dict[str, str] = {}
    left = dict(shapes)
    for rule in rules:
        named = [axis for axis in rule.partition if axis is not None]
        unknown = sorted(set(named) - set(sizes))
        if unknown:
            raise ValueError(f"the rule '{rule}' names the axis {unknown[0]!r}, and the mesh has {', '.join(sizes)}")
        if len(set(named)) < len(named):
            raise ValueError(f"the rule '{rule}' has one axis for two dims")
        matched = [path for path in left if re.search(rule.pattern, path)]
        if strict and not matched:
            shadowed = any(re.search(rule.pattern, path) for path in shapes)
            why = "only what rules before it match" if shadowed else f"nothing, among {_some(shapes)}"
            raise ValueError(f"the rule '{rule}' matches {why}")
        for path in matched:
            shape = left.pop(path)
            problem = _problem(rule, path, shape, sizes)
            if problem and strict:
                raise ValueError(problem)
            if problem:
                kept_whole[path] = problem
            else:
                partitions[path] = rule.partition
    return Assignment(partitions, kept_whole)


def _problem(rule: Rule, path: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> str:
    """Why an array cannot be split so, or ''."""
    if len(rule.partition) > len(shape):
        return f"the rule '{rule}' is for {len(rule.partition)} dims, and {path} {list(shape)} has {len(shape)}"
    for dim, (axis, size) in enumerate(zip(rule.partition, shape, strict=False)):
        if axis is not None and size % sizes[axis]:
            return (
                f"dim {dim} of {path} {list(shape)} is {size}, which the axis {axis}:{sizes[axis]} does not divide "
                f"({size} = {sizes[axis]} x {size // sizes[axis]} + {size % sizes[axis]})"
            )
    return ""


def _some(shapes: Mapping[str, tuple[int, ...]]) -> str:
    names = list(shapes)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
