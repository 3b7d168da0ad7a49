"""A stage at work: its actions in order, and neighbours that do another step than it does.

That stages train as one device does is held by `transparency/test_pipeline.py`, over processes by
`processes/test_pipeline.py`.
"""

from __future__ import annotations

import threading
import types

import jax
import numpy as np
import pytest

from jaxdist.errors import ConnectionLost
from jaxdist.parallel.schedules import Action
from jaxdist.strategies.pipeline.links import LocalLink
from jaxdist.strategies.pipeline.stage_worker import Neighbour, StageWorker

SHAPE = (3,)
BATCH = {"target": np.zeros(2, np.int32)}


class Doubling:
    """A stage whose forward pass doubles and whose backward pass trebles; NumPy counts what it is asked."""

    metrics_dtype = np.float32
    sum_names = ("loss_sum", "correct", "count")
    task = types.SimpleNamespace(nonfinite="stop")

    is_last = False

    def start(self, arrays):
        return {"metrics": {"loss_sum": 1.0, "correct": 2.0, "count": 3.0}}, 0

    def forward(self, arrays, sums, x, batch):
        return {"own": x["before"] * 2}, sums, None

    def backward(self, arrays, x, batch, saved, cotangent, grads):
        return {"before": cotangent["own"] * 3}, grads + 1

    def evaluate(self, arrays, x, batch):
        return {"own": x["before"] * 2}


FORTH_AND_BACK = [Action("F", 0), Action("F", 1), Action("B", 1), Action("B", 0)]


def in_the_middle(actions):
    """(a stage with these actions, the far ends of its links)."""
    device = jax.devices()[0]
    first, before = LocalLink.pair(device, device)
    after, last = LocalLink.pair(device, device)
    worker = StageWorker(
        Doubling(),
        1,
        actions,
        device,
        sources=[Neighbour(before, 0, ("before",))],
        sinks=[Neighbour(after, 2, ("own",))],
        kinds=dict.fromkeys(("before", "own"), (SHAPE, np.float32)),
        turn=threading.Lock(),
    )
    return worker, types.SimpleNamespace(before=first, after=last)


@pytest.fixture
def stage():
    return in_the_middle(FORTH_AND_BACK)


def send(link, kind: str, microbatch: int, step: int = 7, value: float = 1.0, **more) -> None:
    block = "own" if kind == "B" else "before"
    header = {"kind": kind, "microbatch": microbatch, "step": step, "block": block}
    link.send(header | more, np.full((2, 3), value, np.float32))


def test_actions_are_done_in_order_and_the_last_gradient_takes_the_report_along(stage):
    worker, far = stage
    send(far.before, "F", 0, value=1.0, stop=False, spent={"0": [0.25, 7]})
    send(far.before, "F", 1, value=2.0, stop=True)
    send(far.after, "B", 1, value=1.0)
    report = {"metrics": {"count": 6.0}, "spent": {"2": [0.5, 11]}, "stop": True}
    send(far.after, "B", 0, value=2.0, **report)
    done = worker.train({}, [BATCH, BATCH], 7, False)
    for m, value in ((0, 2.0), (1, 4.0)):
        header, y = far.after.receive((2, *SHAPE), np.float32)
        assert (header["kind"], header["microbatch"], header["step"], header["stop"]) == ("F", m, 7, m == 1)
        np.testing.assert_array_equal(y, np.full((2, 3), value))
    headers = []
    for value in (3.0, 6.0):
        header, gradient = far.before.receive((2, *SHAPE), np.float32)
        headers.append(header)
        np.testing.assert_array_equal(gradient, np.full((2, 3), value))
    assert [h["microbatch"] for h in headers] == [1, 0] and "metrics" not in headers[0]
    assert headers[1]["metrics"] == {"count": 6.0} and headers[1]["stop"]
    spent = headers[1]["spent"]
    assert spent == done.spent and (spent[0], spent[2]) == ((0.25, 7), (0.5, 11)) and spent[1][1] == 4 * 2 * 3 * 4
    assert [action for action, *_ in done.spans] == FORTH_AND_BACK
    assert done.stop and done.metrics == {"count": 6.0} and done.grads == 2
    assert done.live_bytes == 2 * 2 * 3 * 4


def test_what_a_backward_pass_has_used_is_not_kept():
    worker, far = in_the_middle([Action("F", 0), Action("B", 0), Action("F", 1), Action("B", 1)])
    for m in range(2):
        send(far.before, "F", m, stop=False)
        send(far.after, "B", m, metrics={})
    assert worker.train({}, [BATCH, BATCH], 7, False).live_bytes == 2 * 3 * 4


@pytest.mark.parametrize(("kind", "microbatch", "step"), [("F", 0, 8), ("F", 1, 7), ("E", 0, 7)])
def test_a_neighbour_that_does_another_step_is_found_and_both_are_told(stage, kind, microbatch, step):
    worker, far = stage
    send(far.before, kind, microbatch, step, stop=False)
    send(far.before, "F", 1, stop=False)  # what would do, had the first not been another
    for m in (1, 0):
        send(far.after, "B", m, metrics={})
    words = rf"sent \('{kind}', {microbatch}, {step}, 'before'\) where \('F', 0, 7, 'before'\) was due"
    with pytest.raises(ConnectionLost, match=words):
        worker.train({}, [BATCH, BATCH], 7, False)
    for link in (far.before, far.after):  # neither is to wait
        with pytest.raises(ConnectionLost, match="another stage of this process failed"):
            link.receive((2, *SHAPE), np.float32)


def test_evaluations_go_through_and_their_metrics_come_back(stage):
    worker, far = stage
    send(far.before, "E", 4, 0, value=3.0)
    assert worker.evaluate({"params": {}, "model_state": {}}, BATCH, 4) is None  # the last stage has the metrics
    header, y = far.after.receive((2, *SHAPE), np.float32)
    assert (header["kind"], header["microbatch"]) == ("E", 4) and float(y[0, 0]) == 6.0
    far.after.send({"kind": "M", "microbatch": 4, "step": 0, "metrics": {"count": 2.0}}, None)
    assert worker.receive_metrics(4) == {"count": 2.0}
    worker.return_metrics(4, {"count": 2.0})  # to other processes alone, and there are none
    assert not worker.hears_metrics and far.before._incoming.empty()


def test_a_number_of_each_stage_is_added_up_on_the_way_to_the_last_and_back(stage):
    worker, far = stage
    far.before.send({"kind": "N", "microbatch": 0, "step": 3, "number": 1.5}, None)
    far.after.send({"kind": "N", "microbatch": 1, "step": 3, "number": 10.0}, None)
    assert worker.total(2.0, 3) == 10.0
    assert far.after.receive((0,), np.uint8)[0]["number"] == 3.5
    assert far.before.receive((0,), np.uint8)[0]["number"] == 10.0
