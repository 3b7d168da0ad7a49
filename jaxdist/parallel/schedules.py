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

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Action(NamedTuple):
    """One microbatch's forward ('F') or backward ('B') on a stage."""

    kind: str
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind}{self.microbatch}"


Schedule = tuple[tuple[Action, ...], ...]  # for each stage, its actions in order


def gpipe(num_stages: int, num_microbatches: int) -> Schedule:
    """All forwards, then all backwards, the last microbatch first."""
    forwards = [Action("F", m) for m in range(num_microbatches)]
    backwards = [Action("B", m) for m in reversed(range(num_microbatches))]
    return tuple(tuple(forwards + backwards) for _ in range(num_stages))


def one_forward_one_backward(num_stages: int, num_microbatches: int) -> Schedule:
    """Backwards as soon as they can be: after filling the pipeline each stage alternates."""

    def stage(number: int) -> tuple[Action, ...]:
        ahead = min(num_stages - 1 - number, num_microbatches)
        actions = [Action("F", m) for m in range(ahead)]
        for m in range(num_microbatches - ahead):
            actions += [Action("F", m + ahead), Action("B", m)]
        return tuple(actions + [Action("B", m) for m in range(num_microbatches - ahead, num_microbatches)])

    return tuple(stage(number) for number in range(num_stages))


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {"gpipe": gpipe, "1f1b": one_forward_one_backward}


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
    ended: dict[tuple[int, Action], float] = {}
    spans: list[list[Span]] = [[] for _ in schedule]
    free = [0.0] * len(schedule)
    while any(len(done) < len(actions) for done, actions in zip(spans, schedule, strict=True)):
        advanced = False
        for s, actions in enumerate(schedule):
            while len(spans[s]) < len(actions):
                action = actions[len(spans[s])]
                ready = free[s]
                if action.kind == "F" and s > 0:
                    needed, cut = (s - 1, action), s - 1
                elif action.kind == "B" and s < last:
                    needed, cut = (s + 1, action), s
                else:
                    needed, cut = None, 0
                if needed is not None:
                    if needed not in ended:
                        break
                    ready = max(ready, ended[needed] + transfer[cut])
                duration = (forward if action.kind == "F" else backward)[s]
                spans[s].append(Span(action, ready, ready + duration))
                free[s] = ended[(s, action)] = ready + duration
                advanced = True
        if not advanced:
            raise ValueError("The schedule waits for itself.")
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


def predicted_bubble(spans: Sequence[Sequence[Span]]) -> float:
    """The idle share of what `simulate` gives, unequal stages and transfers included."""
    whole = max(span.end for row in spans for span in row)
    busy = sum(span.end - span.begin for row in spans for span in row)
    return 1.0 - busy / (whole * len(spans))


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
