"""Which examples are whose: the stream cut into claims, each applied exactly once.

stream   |done ......|claimed by 1|claimed by 0|done|claimed by 1| cursor -> never handed out ... | budget
                      a lost worker's claims go back and are handed out first

Where the data are distributed over workers, each share of the stream belongs to one, in turn; a worker gets its own.
What belongs to a worker that is gone, the others take over when they are through with theirs.

stream   |0 |1 |2 |0 |1 |2 |0 |1 |2 | ...   whose
         |d |d |d |d |p |d |c |p |c | ...   done, claimed, pending: worker 1 is slow
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from jaxdist.state import Position
from jaxdist.state.position import Ranges, size


@dataclasses.dataclass(frozen=True)
class Claim:
    """Examples handed to a worker's session; at bound 0 they belong to a round."""

    number: int
    session: int
    worker: int
    ranges: Ranges
    round: int = 0


class ClaimTable:
    """Hands out claims of `share` examples until `budget` are taken.

    Args:
      start: what was done before.
      in_rounds: at bound 0 the live workers, in order of their numbers, get equal slices of one global batch a round.
      parts: over how many workers the data are distributed; 0: anybody takes the next.
    """

    def __init__(
        self, start: Position, budget: int, share: int, in_rounds: bool, first: int = 1, parts: int = 0
    ) -> None:
        self._parts = parts
        self.cursor = start
        self.budget = budget
        self.share = share
        self.in_rounds = in_rounds
        self.outstanding: dict[int, Claim] = {}
        self._claimed = 0  # examples in them
        self.next_number = first
        self._rounds: dict[int, dict[int, Claim]] = {}  # round -> worker -> claim not yet asked for
        self._round_of: dict[int, int] = {}  # session -> its next round
        self._newest_round = 0

    @property
    def applied(self) -> int:
        """Examples whose gradients have been applied."""
        return self.cursor.seen - self._claimed

    @property
    def position(self) -> Position:
        """Where a run that is resumed from here stands: what is claimed is not done."""
        return self.cursor.give_back(r for c in self.outstanding.values() for r in c.ranges)

    @property
    def exhausted(self) -> bool:
        """Nothing is left to hand out (what is outstanding may come back)."""
        return self.cursor.seen + self.share > self.budget

    @property
    def finished(self) -> bool:
        return self.exhausted and not self.outstanding

    def close(self) -> None:
        """Hands out nothing more."""
        self.budget = 0
        for claims in self._rounds.values():
            for claim in claims.values():
                self._give_back(claim.number)
        self._rounds.clear()

    def take(self, worker: int, session: int, live: dict[int, int]) -> Claim | None:
        """The next claim of a worker, or None. `live`: worker -> session of all that take part."""
        if not self.in_rounds:
            return self._new(worker, session, 0, live)
        for done in [n for n in self._rounds if n < self.lowest_round]:
            del self._rounds[done]
        number = max(self._round_of.get(session, 0), self.lowest_round)
        while number <= self._newest_round:
            claim = self._rounds.get(number, {}).pop(worker, None)
            if claim is not None and claim.session == session:
                self._round_of[session] = number + 1
                return claim
            number += 1
        if self._next(worker, live) is None:
            return None
        self._newest_round += 1
        slices: dict[int, Claim] = {}
        for other in sorted(live):
            claim = self._new(other, live[other], self._newest_round, live)
            if claim is not None:
                slices[other] = claim
        self._rounds[self._newest_round] = slices
        return self.take(worker, session, live) if worker in slices else None

    def _next(self, worker: int, live: Collection[int]) -> tuple[Ranges, Position] | None:
        """The examples that a worker would get, and the cursor after that; None: there are none for it."""
        if self.exhausted:
            return None
        if not self._parts:
            return self.cursor.take(self.share)
        gone = {part for part in range(self._parts) if part not in live}
        return self._of_parts({worker}) or (self._of_parts(gone) if gone else None)

    def _of_parts(self, wanted: Collection[int]) -> tuple[Ranges, Position] | None:
        """The first share that belongs to one of these workers; those before it wait for theirs."""
        cursor = self.cursor
        for one in cursor.pending:
            if one[0] // self.share % self._parts in wanted:
                rest = tuple(other for other in cursor.pending if other != one)
                return (one,), Position(cursor.seen + size((one,)), rest)
        passed: list[tuple[int, int]] = []
        for start in range(cursor.next, self.budget - self.share + 1, self.share):
            one = start, start + self.share
            if start // self.share % self._parts in wanted:
                return (one,), Position(cursor.seen + self.share, (*cursor.pending, *passed))
            passed.append(one)
            if len(passed) > self._parts:  # nobody's share is farther away
                return None
        return None

    def _new(self, worker: int, session: int, number: int, live: Collection[int]) -> Claim | None:
        found = self._next(worker, live)
        if found is None:
            return None
        ranges, self.cursor = found
        claim = Claim(self.next_number, session, worker, ranges, number)
        self.outstanding[claim.number] = claim
        self._claimed += size(ranges)
        self.next_number += 1
        return claim

    @property
    def lowest_round(self) -> int:
        """The round that is to be applied next: the lowest with claims outstanding."""
        return min((c.round for c in self.outstanding.values()), default=self._newest_round + 1)

    def members_of(self, number: int) -> list[Claim]:
        """The claims of a round that are not applied, in order of worker."""
        return sorted((c for c in self.outstanding.values() if c.round == number), key=lambda c: c.worker)

    def retire(self, claim: int) -> int:
        """Marks a claim as applied; returns its number of examples."""
        examples = size(self.outstanding.pop(claim).ranges)
        self._claimed -= examples
        return examples

    def drop(self, session: int) -> list[int]:
        """Takes back all claims of a session; returns their numbers."""
        numbers = [c.number for c in self.outstanding.values() if c.session == session]
        for number in numbers:
            self._give_back(number)
        for claims in self._rounds.values():
            for worker in [w for w, c in claims.items() if c.session == session]:
                del claims[worker]
        return numbers

    def _give_back(self, number: int) -> None:
        ranges = self.outstanding.pop(number).ranges
        self._claimed -= size(ranges)
        self.cursor = self.cursor.give_back(ranges)

    def has_outstanding(self, session: int) -> bool:
        """Whether a session has claims that are not applied."""
        return any(c.session == session for c in self.outstanding.values())
