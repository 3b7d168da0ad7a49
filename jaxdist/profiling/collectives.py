"""Collectives of several processes side by side: one clock, and who waited for whom.

    worker-0  |-- waiting --|== exchange ==|      A collective begins when the last one has come. Until then the others
    worker-1                |== exchange ==|      wait: that is no cost of the network, but of the slowest process.

A call is the same on all devices of a group if it is the k-th of one instruction on each. Which devices exchange with
each other, `groups` says, {instruction: [[devices], ...]}; without it all do.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdist.profiling.parts import Part
from jaxdist.runtime.program import COLLECTIVES

WAITING, EXCHANGE = "waiting for the slowest", "exchange"
_TOLERANCE = 1e-3  # seconds by which the ends of one call may precede its last start
_TWO_AT_A_TIME = "collective-permute"  # a device waits for one other alone, not for the slowest
_Key = tuple[str, int, int]  # instruction, group, number of the call


@dataclasses.dataclass(frozen=True)
class Clock:
    """How a host's clock was moved.

    Attributes:
      moved: seconds that were added to its times.
      spread: of the differences by which it was found, median deviation in seconds.
      calls: by how many collectives; 0: it was left as it is.
    """

    moved: float = 0.0
    spread: float = 0.0
    calls: int = 0


@dataclasses.dataclass(frozen=True)
class Calls:
    """[n] calls of one process, with times on the common clock in Unix seconds.

    Attributes:
      device: which of the process's own, from 0.
      waiting: seconds at the beginning of each that belong to the slowest; nan where it is not known.
    """

    kind: list[str]
    instruction: list[str]
    device: np.ndarray
    start: np.ndarray
    end: np.ndarray
    waiting: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)


@dataclasses.dataclass(frozen=True)
class Split:
    """One kind of collective of one process; times are of one step on one device, on average.

    Attributes:
      calls: a step.
      matched: share of the calls that were found on all processes; the others are divided as these are.
      longest_wait_ms: of one call.
    """

    kind: str
    calls: float
    matched: float
    waiting_ms: float
    exchange_ms: float
    longest_wait_ms: float

    @property
    def waiting_share(self) -> float:
        whole = self.waiting_ms + self.exchange_ms
        return self.waiting_ms / whole if whole > 0 else 0.0


def compare(parts: Sequence[Part], kinds: Sequence[Mapping[str, str]]) -> tuple[list[Calls], dict[str, Clock]]:
    """The collectives of each part on the clock of the first one's host, and {host: how it was moved}.

    Args:
      kinds: for each part {instruction: kind}, as its timeline says; the others go by the instruction's name.
    """
    calls = [_calls_of(part, known) for part, known in zip(parts, kinds, strict=True)]
    together = _together(parts, calls)
    clocks = _clocks(parts, calls, together)
    moved = [dataclasses.replace(c, start=c.start + clocks[p.host].moved, end=c.end + clocks[p.host].moved)
             for p, c in zip(parts, calls, strict=True)]  # fmt: skip
    tolerance = _TOLERANCE + max(clock.spread for clock in clocks.values())
    for members in together.values():
        if len(members) < 2 or calls[members[0][0]].kind[members[0][1]] == _TWO_AT_A_TIME:
            continue
        starts, ends = (np.array([getattr(moved[p], what)[k] for p, k in members]) for what in ("start", "end"))
        if ends.min() < starts.max() - tolerance:
            continue  # one has ended before another began: not one call
        for (p, k), start, end in zip(members, starts, ends, strict=True):
            moved[p].waiting[k] = min(starts.max() - start, end - start)
    return moved, clocks


def split(part: Part, calls: Calls) -> list[Split]:
    """Each kind of collective of a process, where any of its calls has been matched."""
    devices = max(len(set(calls.device.tolist())), 1)
    found = []
    for kind in dict.fromkeys(calls.kind):
        own = np.array([one == kind for one in calls.kind])
        known = own & ~np.isnan(calls.waiting)
        seconds = calls.end - calls.start
        if not known.any():
            continue
        waiting, whole = float(calls.waiting[known].sum()), float(seconds[known].sum())
        share = waiting / whole if whole > 0 else 0.0
        ms = 1e3 * float(seconds[own].sum()) / devices / part.steps
        found.append(
            Split(
                kind,
                round(int(own.sum()) / devices / part.steps, 3),
                int(known.sum()) / int(own.sum()),
                share * ms,
                (1 - share) * ms,
                1e3 * float(calls.waiting[known].max()),
            )
        )
    return found


def _calls_of(part: Part, known: Mapping[str, str]) -> Calls:
    rows = sorted(part.about.get("collectives", ()), key=lambda row: row[2])
    names = [str(row[0]) for row in rows]
    places = {device: place for place, device in enumerate(sorted({row[1] for row in rows}))}  # ids are the cluster's
    times = np.array([row[2:4] for row in rows], np.float64).reshape(-1, 2)
    return Calls(
        [known.get(name) or _by_name(name) for name in names],
        names,
        np.array([places[row[1]] for row in rows], int),
        times[:, 0],
        times[:, 1],
        np.full(len(rows), np.nan),
    )


def _by_name(instruction: str) -> str:
    return next((kind for kind in COLLECTIVES if instruction.startswith(kind)), "collective")


def _together(parts: Sequence[Part], calls: Sequence[Calls]) -> dict[_Key, list[tuple[int, int]]]:
    """(instruction, group, number) -> (part, place) of each member, of the calls that all devices of a group have made.

    A process whose window began some updates later has not made the calls before. Devices are numbered as JAX does,
    process by process.
    """
    first = min(part.about["updates"][0] for part in parts)
    found: dict[_Key, list[tuple[int, int]]] = collections.defaultdict(list)
    members: collections.Counter[tuple[str, int]] = collections.Counter()
    local = 1 + max((int(own.device.max()) for own in calls if len(own)), default=0)
    for number, (part, own) in enumerate(zip(parts, calls, strict=True)):
        late = part.about["updates"][0] - first
        places: dict[tuple[str, int], list[int]] = collections.defaultdict(list)
        for place, (name, device) in enumerate(zip(own.instruction, own.device.tolist(), strict=True)):
            places[name, device].append(place)
        for (name, device), all_of_it in places.items():
            groups = part.about.get("groups", {}).get(name, ())
            whole = part.number * local + device
            group = next((k for k, inside in enumerate(groups) if whole in inside), 0)
            members[name, group] += 1
            if late and len(all_of_it) % part.steps:
                continue  # not so many each step: which is the same as the others' cannot be told
            before = late * (len(all_of_it) // part.steps)
            for k, place in enumerate(all_of_it, before):
                found[name, group, k].append((number, place))
    return {key: places for key, places in found.items() if len(places) == members[key[:2]]}


def _clocks(
    parts: Sequence[Part], calls: Sequence[Calls], together: Mapping[_Key, Sequence[tuple[int, int]]]
) -> dict[str, Clock]:
    """A collective ends on all hosts at about the same time: what differs in the middle of many is the clocks."""
    home = parts[0].host
    differences: dict[str, list[float]] = {part.host: [] for part in parts}
    for members in together.values():
        ends: dict[str, list[float]] = collections.defaultdict(list)
        for p, k in members:
            ends[parts[p].host].append(float(calls[p].end[k]))
        if home in ends:
            for host, found in ends.items():
                differences[host].append(float(np.median(ends[home]) - np.median(found)))
    clocks = {}
    for host, found in differences.items():
        if host == home or not found:
            clocks[host] = Clock()
            continue
        moved = float(np.median(found))
        clocks[host] = Clock(moved, float(np.median(np.abs(np.array(found) - moved))), len(found))
    return clocks
