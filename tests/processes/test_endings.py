"""How every kind of run ends: exit code and last line of each of its processes. `jaxdist/README.md` has the table.

Before training: `test_bad_input.py`, `test_stopping.py`.
"""

from __future__ import annotations

import re
import signal
from typing import Any, NamedTuple

import pytest
from helpers.processes import Ended, Run, wait_for_checkpoint

STRATEGIES: dict[str, tuple[int, dict[str, Any]]] = {
    "single": (1, {"strategy__name": "single"}),
    "allreduce": (2, {}),
    "pipeline": (2, {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"}),
    "parameter_server": (2, {"servers": 1, "strategy__lease_seconds": 3.0}),
}
ENDLESS = {"num_epochs": 500.0, "checkpoint__every_updates": 5, "fault": "delay@seconds=0.02"}
EXPLODES = {"optim__drop_epochs": "(0.5,)", "optim__drop_factor": 1e300, "checkpoint__every_updates": 4}


class Ending(NamedTuple):
    """What happens, and how it is to end: code and last line of worker 0, code of worker 1 and code of a server."""

    settings: dict[str, Any]
    signal: tuple[int, int] | None  # to which process (-1: all), which; after a checkpoint
    code: int
    last: str
    others: int
    server: int


ENDINGS = {
    "good end": Ending({"max_updates": 6}, None, 0, r"done: \d+ updates; results are in /.* \(summary.json", 0, 0),
    "early stop": Ending(
        {"early_stopping_patience": 1, "data__holdout_examples": 24, "eval_every_epochs": 0.25}
        | {"optim__learning_rate": 20.0},
        None, 0, r"done: \d+ updates, stopped early by early_stopping_patience; results are in", 0, 0,
    ),
    "SIGTERM": Ending(
        ENDLESS, (-1, signal.SIGTERM), 75, r"stopped: SIGTERM came; update \d+ .* is saved, start again", 75, 75
    ),
    "SIGINT": Ending(ENDLESS, (0, signal.SIGINT), 130, r"stopped: interrupted \(SIGINT\)", 130, 130),
    "peer lost": Ending(ENDLESS, (0, signal.SIGKILL), -9, "", 1, 1),
    "bad data": Ending(
        {"data__name": "helpers.faulty_data:labels_from_one"}, None, 2, "error: .*they seem to begin at 1", 2, 2
    ),
    "bad numbers": Ending(EXPLODES, None, 1, r"error: .*(nan|inf|NaN|not finite).*health.nonfinite", 1, 1),
    "disk full": Ending(
        {"checkpoint__every_updates": 5, "fault": "full@point=checkpoint"}, None,
        1, r"error: The checkpoint of update \d+ could not be written to .* \(\[Errno 28\] No space left", 1, 1,
    ),
}  # fmt: skip
SHORT = {
    ("single", "early stop"),
    ("pipeline", "SIGINT"),
    ("parameter_server", "SIGTERM"),
    ("allreduce", "disk full"),
}


def rows():
    for strategy in STRATEGIES:
        for ending in ENDINGS:
            if (strategy, ending) != ("single", "peer lost"):
                yield pytest.param(strategy, ending, marks=[] if (strategy, ending) in SHORT else pytest.mark.long)


def ended(folder, strategy: str, ending: Ending) -> list[Ended]:
    n, settings = STRATEGIES[strategy]
    settings = {"global_batch_size": 8, **settings, **ending.settings}
    with Run(folder, n, servers_first=bool(settings.get("servers")), **settings) as run:
        if ending.signal is not None:
            wait_for_checkpoint(folder, 5)
            which, number = ending.signal
            for process in run.processes if which < 0 else [run.processes[which]]:
                process.send_signal(number)
        return run.wait(90)


@pytest.mark.parametrize(("strategy", "name"), list(rows()))
def test_exit_code_and_last_line(tmp_path, strategy, name):
    ending = ENDINGS[name]
    workers, _ = STRATEGIES[strategy]
    first, *rest = ended(tmp_path, strategy, ending)
    assert first.code == ending.code, first.output[-3000:]
    if ending.last:
        assert re.match(f"jaxdist: {ending.last}", first.output.splitlines()[-1]), first.output[-3000:]
    for process in rest[: workers - 1]:
        # A worker of servers may not have done a step when worker 0 has saved.
        early = {143} if (strategy, name) == ("parameter_server", "SIGTERM") else set()
        assert process.code in {ending.others} | early, process.output[-3000:]
    for process in rest[workers - 1 :]:
        assert process.code == ending.server, process.output[-3000:]
    for process in rest:
        outcome = {0: "done", 1: "error", 2: "error"}.get(process.code, "stopped")
        assert re.match(rf"jaxdist: {outcome}: \S", process.output.splitlines()[-1]), process.output[-3000:]
        assert "Traceback" not in process.output
    assert (tmp_path / "summary.json").exists() == (ending.code == 0)
