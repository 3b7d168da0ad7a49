"""Who may start a step: from bulk-synchronous to unbounded.

A worker's *completed* steps are its pushes that were applied. Its *clock lead* at the start of a step is the number of
own steps begun before that one, minus the completed steps of the slowest other active worker:

    bound  0 < s      a step starts only when its clock lead is at most s           stale-synchronous (SSP)
    bound  s < 0      any step starts at once                                        asynchronous (ASP)
    bound  0          a step starts when all rounds before its own are applied       bulk-synchronous (BSP)

With a range (low, high) the bound of each worker moves between the two (DSSP): one that has reached `low` is let run as
many further steps as make its wait for the slowest worker shortest, by the pace at which both pushed last.

References: Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server", NIPS 2013;
Zhao et al., "Dynamic Stale Synchronous Parallel Distributed Training for Deep Learning", ICDCS 2019.

A worker is *active* unless it is away (evaluating, saving) or has nothing to do (no examples left for it, for now).
One that becomes active again starts level with the slowest of the others: nobody waits for what it did not do.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass
class Member:
    """A worker's session.

    Attributes:
      heard: time of the last sign of life.
      process: in words; used: whether it has called with this session, and so knows of it.
      completed: own steps applied, as the staleness controller counts them.
      pushed_at: times of the last two steps applied.
    """

    worker: int
    session: int
    heard: float
    process: str = ""
    used: bool = False
    completed: int = 0
    away: bool = False
    starved: bool = False
    claims: dict[int, int] = dataclasses.field(default_factory=dict)  # number of the request -> claim
    pushed_at: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=2))
    extra: int | None = None  # DSSP: steps beyond the low bound that are left to it; None while it needs none

    @property
    def active(self) -> bool:
        return not self.away and not self.starved


class StalenessController:
    """The clocks of the live workers.

    Args:
      bound: of the clock lead; below 0 there is none.
      high: where above `bound`, the bound moves between the two with the workers' pace.
    """

    def __init__(self, bound: int, high: int = 0) -> None:
        self.bound = bound
        self.high = max(bound, high)
        self.members: dict[int, Member] = {}

    def _others(self, but: Member) -> list[Member]:
        return [m for m in self.members.values() if m is not but and m.active]

    def _slowest(self, but: Member) -> int | None:
        return min((m.completed for m in self._others(but)), default=None)

    def join(self, worker: int, session: int, now: float, process: str = "") -> Member:
        """A new session of a worker, level with the slowest active one."""
        self.members.pop(worker, None)
        member = Member(worker, session, now, process)
        self.members[worker] = member
        self.level(member)
        return member

    def level(self, member: Member) -> None:
        """Forgets how far behind the others a worker is that was not active."""
        others = self._others(member) or [m for m in self.members.values() if m is not member]
        if others:
            member.completed = max(member.completed, min(m.completed for m in others))

    def lead(self, member: Member, ahead: int) -> int:
        """The clock lead of a step that starts with `ahead` own steps not yet applied."""
        slowest = self._slowest(member)
        return 0 if slowest is None else max(member.completed + ahead - slowest, 0)

    def may_start(self, member: Member, ahead: int) -> bool:
        """Whether the bound (above 0, or none) lets the step start; True is taken as a start."""
        lead = self.lead(member, ahead)
        if self.bound < 0 or lead <= self.bound:
            member.extra = None
            return True
        if lead > self.high:
            return False
        if member.extra is None:
            slowest = min(self._others(member), key=lambda m: m.completed)
            member.extra = further_steps(member.pushed_at, slowest.pushed_at, self.high - self.bound)
        if member.extra == 0:
            return False
        member.extra -= 1
        return True

    def pushed(self, member: Member, now: float) -> None:
        """A step of a worker was applied."""
        member.completed += 1
        member.pushed_at.append(now)

    def silent(self, now: float, patience: Callable[[int], float]) -> list[Member]:
        """The workers of which nothing was heard for longer than `patience` of their number, seconds."""
        return [m for m in self.members.values() if now - m.heard > patience(m.worker)]


def largest_staleness(bound: int, workers: int, overlap: bool) -> int | None:
    """The largest staleness that a bound allows; None where there is none.

    Let a step of worker w start with c own steps begun before it. Each other worker has then completed at least c - s.
    When its push is applied, w has completed c, so each other has begun at most step c + s and completed at most
    c + s + 1: at most 2s + 1 pushes of each of the others come between. Where pull and push overlap the computation,
    w's own previous push comes between as well. At bound 0 a round's gradients are all of the version before it.
    """
    if bound < 0:
        return None
    if bound == 0:
        return 0
    return (workers - 1) * (2 * bound + 1) + int(overlap)


def further_steps(fast: Sequence[float], slow: Sequence[float], most: int) -> int:
    """How many more steps, 0 to `most`, the fast worker should take so that it waits for the slow one's next pushes the
    shortest; from the times of both workers' last two pushes, seconds (Zhao et al., ICDCS 2019, algorithm 2)."""
    if len(fast) < 2 or len(slow) < 2:
        return 0
    pace, slow_pace = fast[-1] - fast[0], slow[-1] - slow[0]
    arrivals = [slow[-1] + k * slow_pace for k in range(1, most + 2)]

    def wait(steps: int) -> float:
        ends = fast[-1] + steps * pace
        return min((a - ends for a in arrivals if a >= ends), default=float("inf"))

    return min(range(most + 1), key=wait)
