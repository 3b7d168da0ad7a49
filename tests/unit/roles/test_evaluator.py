"""The evaluator beside a run that this test tells it of; `contract/` and `processes/` have one beside real servers."""

from __future__ import annotations

import types

import pytest
from helpers import tiny_config

import jaxdist
from jaxdist import strategies
from jaxdist.cluster import Cluster
from jaxdist.errors import UsageError
from jaxdist.ps import RunFinished
from jaxdist.roles import evaluator
from jaxdist.task import Classification

CLUSTER = Cluster(role="evaluator", server_addresses=("127.0.0.1:1",))


def tiny(**strategy):
    config = tiny_config.get_config()
    config.model.param_dtype = "float32"
    config.strategy.update({"name": "parameter_server"} | strategy)
    config.eval_every_epochs = 0.25  # 60 examples
    return config


class Run:
    """Answers one after the other; the run ends after the last."""

    eval_multiple, own_part, closed = 1, (0, 1), False

    def __init__(self, seen: list[int]) -> None:
        self._seen, self._now, self.posted = seen, 0, []

    def examples_seen(self) -> int:
        if not self._seen:
            raise RunFinished("the run has ended")
        self._now = self._seen.pop(0)
        return self._now

    task = types.SimpleNamespace(objective=Classification())

    def snapshot(self):
        return types.SimpleNamespace(updates=self._now // 12, examples_seen=self._now, arrays={})

    def eval_step(self, state, batch):
        count = float(batch["mask"].sum())
        return {"loss_sum": 2.0 * count, "correct": 0.5 * count, "count": count}

    def post(self, row) -> None:
        self.posted.append(row)

    def close(self) -> None:
        self.closed = True


class Diary(jaxdist.Callback):
    def __init__(self) -> None:
        self.lines: list[tuple] = []

    def start(self, run) -> None:
        self.lines.append(("start", run.updates))

    def evaluated(self, run, row) -> None:
        self.lines.append(("evaluated", run.updates, row["epoch"]))

    def end(self, run, summary) -> None:
        self.lines.append(("end", summary["evaluations"], summary["last_evaluation"]["updates"]))


@pytest.fixture
def run(monkeypatch):
    run = Run([0, 48, 72, 84, 300, 312])
    monkeypatch.setattr(strategies, "observe", lambda *args, **options: run)
    monkeypatch.setattr(evaluator, "_ASK_SECONDS", 0.0)
    return run


def test_each_stretch_of_examples_is_evaluated_once_and_those_passed_over_are_told(run, tmp_path, caplog):
    diary = Diary()
    assert evaluator.evaluate_snapshots(tiny(), str(tmp_path), CLUSTER, [diary]) == 2
    assert run.posted == [
        {"updates": updates, "examples_seen": 12 * updates, "loss": 2.0, "accuracy": 0.5} for updates in (6, 25)
    ]
    assert diary.lines == [("start", 0), ("evaluated", 6, 0.3), ("evaluated", 25, 1.25), ("end", 2, 25)]
    assert "Epochs 2 to 4 were passed over: evaluating takes too long." in caplog.text and run.closed


def test_what_a_callback_raises_ends_the_evaluator_alone(run, tmp_path):
    class Failing(jaxdist.Callback):
        def evaluated(self, run, row) -> None:
            raise RuntimeError("a callback of somebody's own")

    with pytest.raises(RuntimeError, match="a callback of somebody's own"):
        evaluator.evaluate_snapshots(tiny(), str(tmp_path), CLUSTER, [Failing()])
    assert run.closed and len(run.posted) == 1


def test_a_run_in_phases_has_none(tmp_path):
    config = tiny(name="switch", schedule="allreduce until epoch 1; parameter_server")
    with pytest.raises(UsageError, match=r"evaluates beside a run of one strategy"):
        evaluator.run(config, str(tmp_path), CLUSTER)
