"""The phases of a run, driven one after the other: a run of one strategy has one, a strategy switch has several.

    all-reduce                    | phase boundary                   | parameter server
    every process exports     ----+-> chief: canonical state --------+-> chief: values to the servers
    collectives closed            |   saved as a checkpoint          |   workers join; fate-sharing until all have

    parameter server              | phase boundary                   | all-reduce
    chief waits for all pushes, --+-> chief: canonical state --------+-> collectives opened, arrays fetched from it
    servers forget and stay       |   saved as a checkpoint          |   fate-sharing is on

Everything goes through the canonical state, so nothing is lost, and a strategy knows nothing of the others. Where a run
stands is examples_seen, so a run that is killed resumes wholly in one phase: the one that its checkpoint falls into.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxdist import strategies
from jaxdist.cluster.process_group import ProcessGroup
from jaxdist.config.phases import Schedule, boundaries
from jaxdist.errors import PeerError, UsageError
from jaxdist.optim import momentum
from jaxdist.ps import ServerReservation
from jaxdist.ps.reservation import run_ending
from jaxdist.state import Position, TrainState
from jaxdist.strategies.base import State, Strategy
from jaxdist.strategies.spec import StrategySpec
from jaxdist.task import Task
from jaxdist.train.phase_triggers import Plateau


@dataclasses.dataclass
class _Stored:
    """What a checkpoint says of the phases; used by the first phase of a resumed run alone."""

    phase: int
    trigger: Mapping[str, Any] | None
    strategy: dict[str, Any]


class Phases:
    """The strategy of the present phase, and the way to the next.

    Args:
      schedule: the phases.
      settings: `config.strategy`.
      context: what `BuildContext` takes, but for phase, reservation and momentum_ramp.
      run_examples, epoch_examples: of the whole run, `max_updates` left aside, and of an epoch.
      trigger: ends a phase before its end; None: never.

    Raises:
      UsageError: a parameter server that a later phase needs is not there, or another than it should be.
    """

    def __init__(
        self,
        schedule: Schedule,
        task: Task,
        settings: Mapping[str, Any],
        context: Mapping[str, Any],
        group: ProcessGroup,
        *,
        run_examples: int,
        epoch_examples: int,
        trigger: Plateau | None,
    ) -> None:
        self._schedule, self._task, self._settings, self._context = schedule, task, settings, dict(context)
        self._group, self._trigger, self._epoch = group, trigger, epoch_examples
        self._is_scheduled = bool(schedule.text)
        self._phases = schedule.phases
        batch = self._context["global_batch_size"]
        self._ends = [end * batch for end in boundaries(self._phases, run_examples // batch)]
        self._decided: dict[int, int] = {}  # phase -> its end, where the trigger has ended it
        self._total = 0
        self._strategy: Strategy | None = None
        self.number = -1
        self._following = -1
        self._stored: _Stored | None = None
        self._begun = (0.0, 0, 0)  # of the present phase: when, at which update, after how many examples
        self._ended: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._reservation: ServerReservation | None = None
        if self._is_scheduled and group.is_chief and self._context["server_addresses"]:
            self._reservation = ServerReservation(
                self._context["server_addresses"],
                self._context["security"],
                signature=self._context["signature"],
                connect_seconds=self._context["timeouts"]["connect_timeout_seconds"],
            )

    @property
    def strategy(self) -> Strategy:
        """Of the present phase."""
        assert self._strategy is not None, "start comes first"
        return self._strategy

    def updates_of_all(self) -> int:
        """See `Strategy.updates_of_all`; 0 between two phases."""
        return self._strategy.updates_of_all() if self._strategy is not None else 0

    @property
    def name(self) -> str:
        """Of the present phase, with its options."""
        return str(self._phases[self.number])

    @property
    def end(self) -> int:
        """examples_seen at which the present phase ends."""
        return min(self._ends[self.number], self._total)

    def _spec(self, number: int) -> StrategySpec:
        return strategies.spec_of(self._phases[number].name)

    def _is_asynchronous(self, number: int) -> bool:
        return self._spec(number).asynchronous(self._phases[number].settings(self._settings))

    def _phase_at(self, examples_seen: int) -> int:
        """The phase that trains on the next example; the last one at the end."""
        for number, end in enumerate(self._ends):
            if examples_seen < min(end, self._total):
                return number
        return len(self._phases) - 1

    def start(self, canonical: TrainState, total_examples: int) -> State:
        """Begins the run, or goes on in it. Collective."""
        self._total = total_examples
        seen = canonical.examples_seen
        number = self._phase_at(seen)
        if not self._is_scheduled:
            return self._enter(number, canonical, before=number)
        before = self._stored.phase if self._stored is not None else None
        if before is None:  # saved by a run without this schedule, or new
            before = self._phase_at(seen - 1) if seen else number
        under_way = self._group.phase_under_way()
        if under_way >= 0:  # this process alone was started again
            logging.info("The run is in phase %d already: %s.", under_way + 1, self._phases[under_way])
            return self._enter(under_way, canonical, before=under_way)
        if seen:
            where = "at the boundary before" if before < number else "in"
            words = "The run goes on %s phase %d of %d: %s."
            logging.info(words, where, number + 1, len(self._phases), self._phases[number])
        return self._enter(number, canonical, before=before)

    def _enter(self, number: int, canonical: TrainState, *, before: int) -> State:
        """Begins a phase, or goes on in it; `before`: the phase that the state comes from."""
        begin = time.monotonic()
        phase, spec = self._phases[number], self._spec(number)
        title = self._title(number)
        if self._is_scheduled:
            if spec.fate_sharing:
                self._group.open_collectives(title)
            else:
                self._group.close_collectives()
        ramp = None
        if number and self._settings["momentum_handover"] == "ramp" and self._changes_pace(number - 1, number):
            ramp = (canonical.examples_seen if before < number else self._ends[number - 1], self._epoch)
        strategy = strategies.build(
            phase.settings(self._settings),
            self._task,
            phase=number,
            reservation=self._reservation.reserve if self._reservation is not None else "",
            momentum_ramp=ramp,
            **self._context,
        )
        if (
            before < number and self._group.is_chief and self._changes_pace(before, number)
        ):  # the servers have its state
            canonical = momentum.handed_over(canonical, self._settings["momentum_handover"], self._group.num_processes)
        stored, self._stored = self._stored, None
        if stored is not None and before == number:
            strategy.load_state_dict(stored.strategy)
        canonical = _own_strategy_state(canonical, phase.name)
        self._strategy, self.number = strategy, number
        state = strategy.import_state(canonical, self.end)
        if self._is_scheduled and not spec.fate_sharing:
            self._group.end_fate_sharing(title, number)
        if self._trigger is not None:
            self._trigger.begin(canonical.examples_seen)
            if stored is not None and stored.trigger is not None and before == number:
                self._trigger.load_state_dict(stored.trigger)
        self._begun = (time.monotonic(), state.updates, state.examples_seen)
        if self._is_scheduled:
            seconds = round(time.monotonic() - begin, 3)
            self._events.append({"event": "phase", "phase": number + 1, "strategy": str(phase), "seconds": seconds})
        return state

    def _title(self, number: int) -> str:
        return f"phase {number + 1} ({self._phases[number]})"

    def _changes_pace(self, before: int, number: int) -> bool:
        """Whether a push becomes an update of its own here."""
        return self._is_asynchronous(number) and not self._is_asynchronous(before)

    def is_over(self, row: Mapping[str, Any]) -> bool:
        """Whether the trigger, which looks at a train row, ends the phase here. Collective while fates are shared."""
        last = self.number == len(self._phases) - 1
        if self._trigger is None or last or row["examples_seen"] >= self._total:
            return False
        reasons = self._trigger.look(row)
        if self.strategy.collective:
            reasons = self._group.broadcast(f"the end of phase {self.number + 1} at {row['updates']}", reasons)
        elif not self._group.is_chief:
            return False
        if reasons is None:
            return False
        self._events.append({"event": "switch_decided", "phase": self.number + 1, "rule": "plateau"} | reasons)
        logging.info("The loss has stopped falling (%s): phase %d ends here.", reasons, self.number + 1)
        self._decide([(self.number, row["examples_seen"])])
        return True

    def _decide(self, decided: Iterable[Sequence[int]]) -> None:
        """Phases end where the trigger has ended them."""
        for number, seen in decided:
            self._decided[number] = self._ends[number] = seen

    @property
    def may_go_on(self) -> bool:
        """Whether another phase may follow when the examples of this one are used up; `what_follows` says."""
        return self.number < len(self._phases) - 1

    def what_follows(self, state: State, *, end: bool, stop: bool) -> str:
        """'phase', 'end' or 'stop': the same on all processes. Collective; after everything is applied and saved.

        Args:
          end: by what this process knows the run is over.
          stop: this process was asked to stop.
        """
        ends = [min(end, self._total) for end in self._ends]
        following = next((k for k in range(self.number + 1, len(ends)) if ends[k] > state.examples_seen), None)
        proposal: dict[str, Any] = {
            "what": "stop" if stop else "end" if end or following is None else "phase",
            "following": following,
            "decided": sorted(self._decided.items()),
        }
        agreed = self._group.agree_on_next(f"what follows phase {self.number + 1}", proposal)
        self._decide(agreed["decided"])
        self._following = agreed["following"]
        return agreed["what"]

    def next_phase(self, canonical: TrainState | None) -> tuple[State, Position]:
        """Hands over to the next phase, from the canonical state of this one's end (None on processes that have none).
        Returns its state, and where in the stream it begins.

        Collective. Arrays on devices are lost: the caller must not hold on to any.

        Raises:
          PeerError: a worker was lost that the next phase needs, or the next phase cannot begin.
        """
        begin = time.monotonic()
        number, following = self.number, self._following
        title = self._title(following)
        if canonical is not None and self._group.is_chief:  # others' arrays go with this phase; the chief needs them
            canonical = canonical.in_memory()
        lost = self._leave(canonical)
        if lost and not self._is_asynchronous(following):
            raise PeerError(
                f"worker {', '.join(map(str, lost))} was lost in phase {number + 1}, and {title} needs all "
                f"{self._group.num_processes}: start the run again, it goes on from there"
            )
        self._strategy = None
        shared = self._spec(following).fate_sharing
        if shared:
            self._group.close_collectives()
            self._group.open_collectives(title)
            canonical = self._group.broadcast_state(canonical, title)
        elif canonical is None:  # the chief's goes to the servers
            canonical = self._task.init()
        try:
            begun = self._enter(following, canonical, before=number)
        except UsageError as e:  # training has begun: no longer the user's input
            raise PeerError(f"{title} cannot begin: {e}") from None
        if shared:
            self._group.state_received(title)
        seconds = round(time.monotonic() - begin, 3)
        before, after = self._phases[number], self._phases[following]
        logging.info("Switched from %s to %s in %.1f s.", before, after, seconds)
        handover = self._settings["momentum_handover"] if self._changes_pace(number, following) else "keep"
        self._events.append(
            {
                "event": "switched",
                "from": str(before),
                "to": str(after),
                "phase": following + 1,
                "seconds": seconds,
                "momentum_handover": handover,
            }
        )
        return begun, canonical.position

    def _leave(self, canonical: TrainState | None) -> list[int]:
        """Ends the present phase, and keeps what it has to say for the summary; returns the workers that were lost."""
        began, updates, seen = self._begun
        found: dict[str, Any] = {"strategy": self.name, "seconds": round(time.monotonic() - began, 3)}
        if canonical is not None:
            found |= {"updates": canonical.updates - updates, "examples": canonical.examples_seen - seen}
        present = self.strategy.report.gather([], all_needed=not self._is_asynchronous(self._following))
        found |= self.strategy.report.summary()
        self.strategy.close(run_goes_on=True)
        self._events += self.strategy.report.events()  # the last ones: who was lost while the others finished
        self._ended.append(found)
        return [worker for worker, one in enumerate(present) if one is None]

    # What is said of the phases.

    def row(self) -> dict[str, Any]:
        """What is added to a train row."""
        return ({"phase": self.number + 1} if self._is_scheduled else {}) | self.strategy.report.row()

    def events(self) -> list[dict[str, Any]]:
        """What has happened since the last call."""
        taken, self._events = self._events, []
        return taken + (self._strategy.report.events() if self._strategy is not None else [])

    def summary(self, state: State) -> dict[str, Any]:
        """What is added to the summary: what the last strategy has to say, or every phase's."""
        if not self._is_scheduled:
            return self.strategy.report.summary()
        began, updates, seen = self._begun
        last: dict[str, Any] = {"strategy": self.name, "seconds": round(time.monotonic() - began, 3)}
        last |= {"updates": state.updates - updates, "examples": state.examples_seen - seen}
        return {"phases": [*self._ended, last | self.strategy.report.summary()]}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint is to keep (JSON)."""
        own = self.strategy.state_dict()
        if not self._is_scheduled:
            return own
        found: dict[str, Any] = {"phase": self.number, "schedule": self._schedule.text, "ended": self._ended}
        found |= {"decided": sorted(self._decided.items()), "now": own}
        return found | ({"rule": self._trigger.state_dict()} if self._trigger is not None else {})

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """What `state_dict` gave, of this run or of one with another strategy; called before `start`."""
        if not self._is_scheduled:
            self._stored = _Stored(0, None, stored)
            return
        if stored.get("schedule") != self._schedule.text:  # of another schedule: where the run stands decides
            return
        self._stored = _Stored(stored["phase"], stored.get("rule"), stored.get("now") or {})
        self._ended = stored["ended"]
        if self._trigger is not None:  # what was decided stays decided
            self._decide(stored["decided"])

    def close(self, error: BaseException | None = None) -> None:
        """Ends the present phase's connections, and the servers that a later phase would have needed; idempotent."""
        if self._strategy is not None:
            self._strategy.close(error)
        if self._reservation is not None:
            self._reservation.end(*run_ending(error))
            self._reservation.close()
            self._reservation = None


def _own_strategy_state(canonical: TrainState, name: str) -> TrainState:
    """Without what other strategies than `name` have kept; the log says what is dropped."""
    foreign = sorted(set(canonical.strategy_state) - {name})
    for owner in foreign:
        logging.warning(
            "What %s has kept besides the model (strategy_state) means nothing to %s: dropped.", owner, name
        )
    if not foreign:
        return canonical
    kept = {owner: tree for owner, tree in canonical.strategy_state.items() if owner == name}
    return dataclasses.replace(canonical, strategy_state=kept)
