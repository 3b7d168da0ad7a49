"""One run under several strategies, one after the other ("strategy switch").

    all-reduce                    | hand-over                        | parameter server
    every process exports     ----+-> chief: canonical state --------+-> chief: values to the servers
    collectives closed            |   saved as a checkpoint          |   workers join; lives are tied until all have

    parameter server              | hand-over                        | all-reduce
    chief waits for all pushes, --+-> chief: canonical state --------+-> collectives opened, leaves fetched from it
    servers forget and stay       |   saved as a checkpoint          |   lives are tied

Everything goes through the canonical state, so nothing is lost, and a phase knows nothing of the others. Where a run
stands is examples_seen, so a run that is killed resumes wholly in one phase: the one that its checkpoint falls into.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxdist.cluster.process_group import ProcessGroup
from jaxdist.config.phases import Phase
from jaxdist.errors import PeerError, UsageError
from jaxdist.optim import momentum
from jaxdist.ps import ServerReservation
from jaxdist.state import Position, TrainState
from jaxdist.strategies.base import State, Strategy
from jaxdist.strategies.parameter_server.worker import ending
from jaxdist.task import Batch, Metrics, Task
from jaxdist.train.phase_triggers import Plateau


class Switch(Strategy):
    """Delegates to the strategy of the present phase.

    Args:
      phases, ends: the phases, and the examples_seen at which each ends.
      schedule: their text.
      asynchronous: of each phase, whether each push is an update of its own.
      build: (number of a phase, momentum's ramp) -> its strategy; called when the phase begins.
      keeper: keeps the parameter servers waiting (on the chief, where there are some).
      momentum_handover: one of `momentum.CHOICES`.
      rule: ends a phase before its end; None: never.
      epoch_examples: examples of an epoch.
    """

    def __init__(
        self,
        task: Task,
        phases: Sequence[Phase],
        *,
        ends: Sequence[int],
        schedule: str,
        asynchronous: Sequence[bool],
        build: Callable[[int, tuple[int, int] | None], Strategy],
        meeting: ProcessGroup,
        keeper: ServerReservation | None,
        is_chief: bool,
        num_workers: int,
        momentum_handover: str,
        rule: Plateau | None,
        epoch_examples: int,
    ) -> None:
        self.task, self.is_chief = task, is_chief
        self.examples_per_update = 1  # of the present phase, as are the other facts: see _enter
        self._phases, self._ends, self._schedule = list(phases), list(ends), schedule
        self._decided: dict[int, int] = {}  # phase -> its end, where the rule has ended it
        self._asynchronous = list(asynchronous)
        self._following = -1
        self._build, self._meeting, self._keeper = build, meeting, keeper
        self._workers, self._how, self._rule, self._epoch = num_workers, momentum_handover, rule, epoch_examples
        self._now: Strategy | None = None
        self._number = -1
        self._total = 0
        self._stored_phase: int | None = None
        self._stored_rule: dict[str, Any] | None = None
        self._stored_now: dict[str, Any] | None = None
        self._begun = (0.0, 0, 0)  # of the present phase: when, at which update, after how many examples
        self._progress = (0, 0)  # updates and examples, as last heard of
        self._ended: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []

    @property
    def now(self) -> Strategy:
        """The strategy of the present phase."""
        assert self._now is not None, "import_state comes first"
        return self._now

    # Phases.

    def _phase_at(self, examples_seen: int) -> int:
        """The phase that trains on the next example; the last one at the end."""
        for number, end in enumerate(self._ends):
            if examples_seen < min(end, self._total):
                return number
        return len(self._phases) - 1

    def import_state(self, canonical: TrainState, total_examples: int = 0) -> State:
        self._total = total_examples
        seen = canonical.examples_seen
        number = self._phase_at(seen)
        before = self._stored_phase
        if before is None:  # saved by another strategy, or new
            before = self._phase_at(seen - 1) if seen else number
        under_way = self._meeting.phase_under_way()
        if under_way >= 0:  # this process alone was started again
            logging.info("The run is in phase %d already: %s.", under_way + 1, self._phases[under_way])
            return self._enter(under_way, canonical, before=under_way)
        if seen:
            where = "at the seam before" if before < number else "in"
            words = "The run goes on %s phase %d of %d: %s."
            logging.info(words, where, number + 1, len(self._phases), self._phases[number])
        return self._enter(number, canonical, before=before)

    def _enter(self, number: int, canonical: TrainState, *, before: int) -> State:
        """Begins a phase, or goes on in it; `before`: the phase that the state comes from."""
        begin = time.monotonic()
        phase = self._phases[number]
        name = f"phase {number + 1} ({phase})"
        tied = phase.name != "parameter_server"
        if tied:
            self._meeting.open_collectives(name)
        else:
            self._meeting.close_collectives()
        ramp = None
        if number and self._how == "ramp" and self._changes_pace(number - 1, number):
            ramp = (canonical.examples_seen if before < number else self._ends[number - 1], self._epoch)
        now = self._build(number, ramp)
        if before < number and self.is_chief and self._changes_pace(before, number):  # the servers have the chief's
            canonical = momentum.handed_over(canonical, self._how, self._workers)
        if before == number and self._stored_now is not None:
            now.load_state_dict(self._stored_now)
        self._now, self._number = now, number
        for fact in ("examples_per_update", "own_part", "eval_multiple", "collective", "learning_rate_scale"):
            setattr(self, fact, getattr(now, fact))
        state = now.import_state(canonical, min(self._ends[number], self._total))
        if not tied:
            self._meeting.end_fate_sharing(name, number)
        if self._rule is not None:
            self._rule.begin(canonical.examples_seen)
            if self._stored_rule is not None and before == number:
                self._rule.load_state_dict(self._stored_rule)
        self._stored_phase = self._stored_rule = self._stored_now = None
        self._progress = now.progress(state)
        self._begun = (time.monotonic(), *self._progress)
        self._events.append(
            {
                "event": "phase",
                "phase": number + 1,
                "strategy": str(phase),
                "seconds": round(time.monotonic() - begin, 3),
            }
        )
        return state

    def _changes_pace(self, before: int, number: int) -> bool:
        """Whether a push becomes an update of its own here."""
        return self._asynchronous[number] and not self._asynchronous[before]

    def may_go_on(self) -> bool:
        return self._number < len(self._phases) - 1

    def what_follows(self, *, end: bool, stop: bool) -> str:
        ends = [min(end, self._total) for end in self._ends]
        here, number = self._progress[1], self._number
        following = next((k for k in range(number + 1, len(ends)) if ends[k] > here), None)
        said: dict[str, Any] = {
            "what": "stop" if stop else "end" if end or following is None else "phase",
            "following": following,
            "decided": sorted(self._decided.items()),
        }
        said = self._meeting.agree_on_next(f"what follows phase {number + 1}", said)
        self._decide(said["decided"])
        self._following = said["following"]
        return said["what"]

    def _decide(self, decided: Iterable[Sequence[int]]) -> None:
        """Phases end where the rule has ended them."""
        for number, seen in decided:
            self._decided[number] = self._ends[number] = seen

    def next_phase(self, canonical: TrainState | None) -> tuple[State, Position]:
        begin = time.monotonic()
        number, following = self._number, self._following
        name = f"phase {following + 1} ({self._phases[following]})"
        if canonical is not None and self.is_chief:  # others' leaves go with this phase, and the chief alone needs them
            canonical = canonical.in_memory()
        self._leave(canonical)
        if self.now.lost_workers and not self._asynchronous[following]:
            raise PeerError(
                f"worker {', '.join(map(str, self.now.lost_workers))} was lost in phase {number + 1}, and {name} needs "
                f"all {self._workers}: start the run again, it goes on from there"
            )
        shared = self._phases[following].name != "parameter_server"
        if shared:
            self._meeting.close_collectives()
            self._now = None
            self._meeting.open_collectives(name)
            canonical = self._meeting.broadcast_state(canonical, name)
        elif canonical is None:  # the chief's goes to the servers
            canonical = self.task.init()
        self._now = None
        try:
            state = self._enter(following, canonical, before=number)
        except UsageError as e:  # training has begun: no longer the user's input
            raise PeerError(f"{name} cannot begin: {e}") from None
        if shared:
            self._meeting.state_received(name)
        seconds = round(time.monotonic() - begin, 3)
        before, after = self._phases[number], self._phases[following]
        logging.info("Switched from %s to %s in %.1f s.", before, after, seconds)
        self._events.append(
            {
                "event": "switched",
                "from": str(before),
                "to": str(after),
                "phase": following + 1,
                "seconds": seconds,
                "momentum_handover": self._how if self._changes_pace(number, following) else "keep",
            }
        )
        return state, canonical.position

    def _leave(self, canonical: TrainState | None) -> None:
        """Ends the present phase, and keeps what it has to say for the summary."""
        began, updates, seen = self._begun
        found = {"strategy": str(self._phases[self._number]), "seconds": round(time.monotonic() - began, 3)}
        if canonical is not None:
            found |= {"updates": canonical.updates - updates, "examples": canonical.examples_seen - seen}
        found |= self.now.end_phase()
        self._events += self.now.events()  # the last ones: who was lost while the others finished
        self._ended.append(found)

    def phase_is_over(self, row: dict[str, Any]) -> bool:
        last = self._number == len(self._phases) - 1
        if self._rule is None or last or row["examples_seen"] >= self._total:
            return False
        reasons = self._rule.look(row)
        if self.collective:
            reasons = self._meeting.broadcast(f"the end of phase {self._number + 1} at {row['updates']}", reasons)
        elif not self.is_chief:
            return False
        if reasons is None:
            return False
        self._events.append({"event": "switch_decided", "phase": self._number + 1, "rule": "plateau"} | reasons)
        logging.info("The loss has stopped falling (%s): phase %d ends here.", reasons, self._number + 1)
        self._decide([(self._number, row["examples_seen"])])
        return True

    def state_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"phase": self._number, "schedule": self._schedule, "ended": self._ended}
        found |= {"decided": sorted(self._decided.items()), "now": self.now.state_dict()}
        return found | ({"rule": self._rule.state_dict()} if self._rule is not None else {})

    def load_state_dict(self, memo: dict[str, Any]) -> None:
        if memo.get("schedule") != self._schedule:  # of another schedule: where the run stands decides
            return
        self._stored_phase, self._stored_rule, self._ended = memo["phase"], memo.get("rule"), memo["ended"]
        self._stored_now = memo.get("now")
        if self._rule is not None:  # what was decided stays decided
            self._decide(memo["decided"])

    # The present phase's.

    def export_state(self, state: State) -> TrainState:
        return self.now.export_state(state)

    def train_step(self, state: State, batch: Batch, stop: bool = False) -> tuple[State, Metrics]:
        return self.now.train_step(state, batch, stop)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        return self.now.eval_step(state, batch)

    def progress(self, state: State) -> tuple[int, int]:
        self._progress = self.now.progress(state)
        return self._progress

    def positions(self, start: Position, total_examples: int) -> Iterator[np.ndarray]:
        return self.now.positions(start, min(self._ends[self._number], total_examples))

    def stop_positions(self) -> None:
        self.now.stop_positions()

    def place(self, batch: Batch) -> Batch:
        return self.now.place(batch)

    def drain(self, state: State) -> tuple[State, Metrics | None]:
        return self.now.drain(state)

    def snapshot(self, state: State) -> State:
        return self.now.snapshot(state)

    def phase(self, name: str) -> contextlib.AbstractContextManager[Any]:
        return self.now.phase(name) if self._now is not None else contextlib.nullcontext()

    def row(self) -> dict[str, Any]:
        return {"phase": self._number + 1} | self.now.row()

    def events(self) -> list[dict[str, Any]]:
        taken, self._events = self._events, []
        return taken + (self.now.events() if self._now is not None else [])

    def evaluations(self) -> list[dict[str, Any]] | None:
        return self.now.evaluations()

    def gather(self, report: list[Any]) -> list[list[Any]]:
        return self.now.gather(report)

    def summary(self) -> dict[str, Any]:
        began, updates, seen = self._begun
        last = {"strategy": str(self._phases[self._number]), "seconds": round(time.monotonic() - began, 3)}
        last |= {"updates": self._progress[0] - updates, "examples": self._progress[1] - seen}
        return {"phases": [*self._ended, last | self.now.summary()]}

    def close(self, error: BaseException | None = None) -> None:
        if self._now is not None:
            self._now.close(error)
        if self._keeper is not None:
            self._keeper.end(*ending(error))
            self._keeper.close()
            self._keeper = None
