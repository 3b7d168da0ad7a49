"""Stages and places of a graph: as good as the best of all ways, by simulation; nothing crosses within a process."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdist.cost import branches
from jaxdist.cost.balance import depths
from jaxdist.cost.blocks import BlockCost
from jaxdist.models import Graph
from jaxdist.parallel.schedules import SCHEDULES_OF, simulate_graph

LIKE = jax.ShapeDtypeStruct((4,), jnp.float32)


def two_branches(a: int, b: int, after: int) -> Graph:
    """Branches of `a` and `b` blocks, and so many blocks after they meet."""
    sources = {}
    for branch, count, given in (("a", a, "x"), ("b", b, "y")):
        sources |= {f"{branch}{k}": (f"{branch}{k - 1}",) if k else (given,) for k in range(count)}
    sources["m"] = (f"a{a - 1}", f"b{b - 1}")
    sources |= {f"h{k}": (f"h{k - 1}",) if k else ("m",) for k in range(after)}
    blocks = tuple((name, nn.Dense(3)) for name in sources)
    return Graph(blocks, {"x": LIKE, "y": LIKE}, (), tuple(sources.values()))


def costs_of(model: Graph, rng) -> list[BlockCost]:
    found = []
    for name in model.names:
        seconds = float(rng.uniform(0.001, 0.01))
        found.append(BlockCost(name, 0, int(rng.integers(1e3, 1e6)), np.float32, 100, 100, seconds, 2 * seconds))
    return found


def best_of_all(costs, model, processes, schedule) -> float:
    found = []
    for way in itertools.product(range(processes), repeat=len(model.names)):
        if len(set(way)) == processes:
            found.append(branches.step_seconds(costs, model, *branches._merged(model, way), 4, schedule)[0])
    return min(found)


@pytest.mark.parametrize(
    ("shape", "processes", "trials"), [((2, 2, 1), 2, None), ((2, 3, 1), 3, 200), ((2, 3, 2), 2, 100)]
)
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_plan_is_within_5_percent_of_the_best_of_all(monkeypatch, shape, processes, trials, schedule):
    """Where there are too many ways, too: `trials` of them."""
    model, rng = two_branches(*shape), np.random.default_rng(sum(shape))
    costs = costs_of(model, rng)
    if trials:
        monkeypatch.setattr(branches, "_MOST_TRIALS", trials)
    options = {"num_microbatches": 4, "schedule": schedule, "remat": False}
    plan = branches.plan_branches(costs, model, num_processes=processes, **options)
    assert set(plan.processes) == set(range(processes))
    assert sorted(name for names in plan.stages for name in names) == sorted(model.names)
    seconds = branches.step_seconds(costs, model, plan.stages, plan.processes, 4, schedule)[0]
    assert seconds <= 1.05 * best_of_all(costs, model, processes, schedule)


def test_equal_branches_are_side_by_side_without_a_bubble_between_them():
    model = two_branches(2, 2, 0)
    costs = [BlockCost(n, 0, 10, np.float32, 1, 1, 0.01, 0.02) for n in model.names]
    costs[-1] = BlockCost("m", 20, 10, np.float32, 1, 1, 1e-4, 2e-4)
    plan = branches.plan_branches(costs, model, num_processes=2, num_microbatches=4, schedule="gpipe", remat=False)
    where = dict(zip(plan.stages, plan.processes, strict=True))
    assert where["a0", "a1"] != where["b0", "b1"]
    assert plan.predicted["bubble"] < 0.02  # a pipeline of two stages would be idle for 1 / 5


def test_many_segments_and_many_processes_are_planned_at_all():
    model = two_branches(12, 3, 4)
    costs = costs_of(model, np.random.default_rng(0))
    plan = branches.plan_branches(costs, model, num_processes=9, num_microbatches=2, schedule="gpipe", remat=False)
    assert set(plan.processes) == set(range(9))
    limits = [2] * 30
    first = list(itertools.islice(branches._counts(limits, 32), 3))  # 2^30 ways are not made to find three
    assert all(sum(way) == 32 for way in first) and first == sorted(first)
    ways = itertools.product(*(range(1, limit + 1) for limit in (3, 1, 4)))
    assert [*branches._counts((3, 1, 4), 5)] == [way for way in ways if sum(way) == 5]


def test_segments():
    model = two_branches(2, 1, 2)
    assert branches.segments(model) == [("a0", "a1"), ("b0",), ("m", "h0", "h1")]


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize("microbatches", [1, 3, 8])
def test_no_schedule_of_a_graph_waits_for_itself(name, microbatches):
    """Edges over several stages, and branches of unequal depth, whatever shares a process."""
    edges = {(0, 2): 1.0, (1, 2): 1.0, (0, 4): 1.0, (2, 3): 1.0, (3, 4): 1.0, (1, 4): 1.0}
    table = SCHEDULES_OF[name](depths(edges, 5), microbatches)
    for processes in ((), (0, 0, 0, 0, 0), (0, 1, 1, 0, 1)):
        spans = simulate_graph(table, [1.0, 2.0, 1.0, 3.0, 1.0], [2.0] * 5, edges, processes)
        ended = {(s, span.action): span for s, row in enumerate(spans) for span in row}
        for before, after in edges:
            for m in range(microbatches):
                assert ended[before, ("F", m)].end <= ended[after, ("F", m)].begin
                assert ended[after, ("B", m)].end <= ended[before, ("B", m)].begin
