"""The collectives of a compiled program, counted in its text."""

from __future__ import annotations

from typing import NamedTuple

from jaxdist.runtime.program import COLLECTIVES, Program, replica_groups


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
    for inside in Program(text).computations.values():
        for instruction in inside.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            groups = replica_groups(instruction)
            members = len(groups[0]) if groups else num_devices
            if members > 1:
                found.append(Collective(kind, instruction.bytes, members))
    return found


def totals(found: list[Collective]) -> dict[str, dict[str, int]]:
    """{kind: {count, bytes, bytes_sent}}."""
    result: dict[str, dict[str, int]] = {}
    for one in found:
        row = result.setdefault(one.kind, {"count": 0, "bytes": 0, "bytes_sent": 0})
        row["count"] += 1
        row["bytes"] += one.bytes
        row["bytes_sent"] += one.bytes_sent
    return result
