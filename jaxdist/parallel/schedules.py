"""Who computes what, and in which order, in a pipeline of stages: pure tables.

A schedule lists, for each stage, its actions in order: the forward (F) and backward (B) of each microbatch. An action
waits for what it needs (F of the stage before, B of the stage after) and for nothing else.

GPipe, 3 stages, 4 microbatches (Huang et al. 2019, arXiv:1811.06965, figure 2c; B as long as F here):

    stage 0   F0 F1 F2 F3 .  .  .  .  B3 B2 B1 B0
    stage 1   .  F0 F1 F2 F3 .  .  B3 B2 B1 B0 .
    stage 2   .  .  F0 F1 F2 F3 B3 B2 B1 B0 .  .

1F1B with a flush ("PipeDream-flush": Narayanan et al. 2021, arXiv:2006.09503, section 2.2): as idle as GPipe, but stage
s keeps the activations of at most K - s microbatches instead of all M.

    stage 0   F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3
    stage 1   .  F0 F1 .  B0 F2 B1 F3 B2 .  B3 .
    stage 2   .  .  F0 B0 F1 B1 F2 B2 F3 B3 .  .
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Action(NamedTuple):
    """One microbatch's forward ('F') or backward ('B') on a stage."""

    kind: str
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind}{self.microbatch}"


Schedule = tuple[tuple[Action, ...], ...]  # for each stage, its actions in order


def gpipe_of(depths: Sequence[int], num_microbatches: int) -> Schedule:
    """All forwards, then all backwards, the last microbatch first."""
    forwards = [Action("F", m) for m in range(num_microbatches)]
    backwards = [Action("B", m) for m in reversed(range(num_microbatches))]
    return tuple(tuple(forwards + backwards) for _ in depths)


def one_forward_one_backward_of(depths: Sequence[int], num_microbatches: int) -> Schedule:
    """Backwards as soon as they can be: after filling the pipeline each stage alternates."""

    def stage(depth: int) -> tuple[Action, ...]:
        ahead = min(depth, num_microbatches)
        actions = [Action("F", m) for m in range(ahead)]
        for m in range(num_microbatches - ahead):
            actions += [Action("F", m + ahead), Action("B", m)]
        return tuple(actions + [Action("B", m) for m in range(num_microbatches - ahead, num_microbatches)])

    return tuple(map(stage, depths))


# By the depths of the stages: the most edges on a way to the last. Stages side by side have equal depths; a stage's
# forwards are as far ahead of its backwards as a chain's of that depth, so that no order waits for itself.
SCHEDULES_OF: dict[str, Callable[[Sequence[int], int], Schedule]] = {
    "gpipe": gpipe_of,
    "1f1b": one_forward_one_backward_of,
}


def _of_chain(of: Callable[[Sequence[int], int], Schedule]) -> Callable[[int, int], Schedule]:
    return lambda num_stages, num_microbatches: of(range(num_stages - 1, -1, -1), num_microbatches)


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {name: _of_chain(of) for name, of in SCHEDULES_OF.items()}


class Span(NamedTuple):
    """When an action runs; in the unit of the durations it was computed from."""

    action: Action
    begin: float
    end: float


def simulate(
    schedule: Schedule, forward: Sequence[float], backward: Sequence[float], transfer: Sequence[float] = ()
) -> list[list[Span]]:
    """For each stage, when its actions run if nothing but the order and the dependencies holds them up.

    Args:
      forward, backward: duration of a microbatch on each stage.
      transfer: duration of sending over each of the K - 1 cuts, either way; nobody computes any less for it.

    Raises:
      ValueError: the schedule waits for itself.
    """
    last = len(schedule) - 1
    transfer = transfer or [0.0] * last
    return simulate_graph(schedule, forward, backward, {(s, s + 1): transfer[s] for s in range(last)})


def simulate_graph(
    schedule: Schedule,
    forward: Sequence[float],
    backward: Sequence[float],
    transfer: Mapping[tuple[int, int], float],
    processes: Sequence[int] = (),
) -> list[list[Span]]:
    """The same of stages that form any graph.

    Args:
      transfer: {(stage, a later one that needs its output): duration of sending it, or its gradient}.
      processes: of each stage; one process does one action at a time, the one that can begin first, and nothing is
        sent within it. (): each stage has its own.

    Raises:
      ValueError: the schedule waits for itself.
    """
    where = list(processes) or list(range(len(schedule)))
    needs: dict[str, list[list[tuple[int, float]]]] = {"F": [[] for _ in schedule], "B": [[] for _ in schedule]}
    for (before, after), seconds in transfer.items():
        over = seconds if where[before] != where[after] else 0.0
        needs["F"][after].append((before, over))
        needs["B"][before].append((after, over))
    ended: dict[tuple[int, Action], float] = {}
    spans: list[list[Span]] = [[] for _ in schedule]
    free = dict.fromkeys(where, 0.0)
    for _ in range(sum(map(len, schedule))):
        soonest: tuple[float, int] | None = None
        for s, actions in enumerate(schedule):
            if len(spans[s]) == len(actions):
                continue
            action = actions[len(spans[s])]
            came = [(ended.get((other, action)), over) for other, over in needs[action.kind][s]]
            if any(end is None for end, _ in came):
                continue
            ready = max([free[where[s]], *((end or 0.0) + over for end, over in came)])
            if soonest is None or ready < soonest[0]:
                soonest = ready, s
        if soonest is None:
            raise ValueError("The schedule waits for itself.")
        begin, s = soonest
        action = schedule[s][len(spans[s])]
        end = begin + (forward if action.kind == "F" else backward)[s]
        spans[s].append(Span(action, begin, end))
        free[where[s]] = ended[s, action] = end
    return spans


def draw(schedule: Schedule) -> str:
    """The table of the module's docstring: a column per unit of time, F and B one unit each; '.' is idle."""
    spans = simulate(schedule, *[[1.0] * len(schedule)] * 2)
    columns = int(max(span.end for row in spans for span in row))
    width = max(len(str(span.action)) for row in spans for span in row)
    lines = []
    for s, row in enumerate(spans):
        cells = ["."] * columns
        for span in row:
            cells[int(span.begin)] = str(span.action)
        lines.append(f"stage {s}   " + " ".join(cell.ljust(width) for cell in cells).rstrip())
    return "\n".join(lines)


def bubble(num_stages: int, num_microbatches: int) -> float:
    """The share of their time that equal stages are idle, under either schedule: (K - 1) / (M + K - 1).

    GPipe, section 2.3; it is the same for 1F1B with a flush.
    """
    return (num_stages - 1) / (num_microbatches + num_stages - 1)


def predicted_bubble(spans: Sequence[Sequence[Span]], num_workers: int = 0) -> float:
    """The idle share of what `simulate` gives, unequal stages and transfers included; of so many workers, or of one a
    stage."""
    whole = max(span.end for row in spans for span in row)
    busy = sum(span.end - span.begin for row in spans for span in row)
    return 1.0 - busy / (whole * (num_workers or len(spans)))


def most_in_flight(schedule: Schedule) -> list[int]:
    """For each stage, the most microbatches whose activations it keeps at one time."""
    found = []
    for actions in schedule:
        alive = most = 0
        for action in actions:
            alive += 1 if action.kind == "F" else -1
            most = max(most, alive)
        found.append(most)
    return found
