"""The collectives of a compiled program, counted in its text."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(rf"= (?P<shapes>\(.*?\)|\S+) (?P<kind>{'|'.join(_KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"(?P<kind>pred|bf16|[a-z]+(?P<bits>\d+))\[(?P<dims>[\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{(?P<first>[\d,]+)\}|\[(?P<count>\d+),(?P<size>\d+)\])")


class Collective(NamedTuple):
    """One instruction: `bytes` of its result on one device, `members` devices that take part (0: not said)."""

    kind: str
    bytes: int
    members: int

    @property
    def bytes_sent(self) -> int:
        """By each member, where rings do it (Patarasuk and Yuan 2009): what passes over its network."""
        n = self.members
        share = {"all-reduce": 2 * (n - 1) / n, "all-gather": (n - 1) / n, "all-to-all": (n - 1) / n}
        if self.kind == "reduce-scatter":  # its result is one share
            return self.bytes * (n - 1)
        return round(self.bytes * share.get(self.kind, 1.0))


def collectives(text: str, num_devices: int) -> list[Collective]:
    """Those of a program of `num_devices` devices, as `Compiled.as_text()` prints it.

    Each instruction counts once, even inside a loop.
    """
    found = []
    for line in text.splitlines():
        instruction = _INSTRUCTION.search(line)
        if instruction is None:
            continue
        sizes = [
            math.prod(int(d) for d in shape["dims"].split(",") if d) * _bytes(shape["kind"], shape["bits"])
            for shape in _SHAPE.finditer(instruction["shapes"])
        ]
        groups = _GROUPS.search(line)
        members = num_devices
        if groups is not None:
            members = len(groups["first"].split(",")) if groups["first"] else int(groups["size"])
        if members > 1:
            found.append(Collective(instruction["kind"], sum(sizes), members))
    return found


def _bytes(kind: str, bits: str | None) -> int:
    return 1 if kind == "pred" else 2 if kind == "bf16" else max(int(bits or 8) // 8, 1)


def totals(found: list[Collective]) -> dict[str, dict[str, int]]:
    """{kind: {count, bytes, bytes_sent}}."""
    result: dict[str, dict[str, int]] = {}
    for one in found:
        row = result.setdefault(one.kind, {"count": 0, "bytes": 0, "bytes_sent": 0})
        row["count"] += 1
        row["bytes"] += one.bytes
        row["bytes_sent"] += one.bytes_sent
    return result
