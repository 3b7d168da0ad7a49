"""Links that are cut: for a while, which costs time and no number; for good, after which everybody ends in time and
says who was lost. Links that lose and delay.
"""

from __future__ import annotations

import json
import time

import lab_cuts
import lab_run
import numpy as np
import pytest
from helpers.hosts import STRATEGIES, ended, lab_of, train
from helpers.outcomes import final_state
from helpers.processes import finish, wait_for_update
from lab_link import Link

from jaxdist.state import flatten

pytestmark = [pytest.mark.hosts, pytest.mark.long]

SLOWLY = "delay@process=0,seconds=0.2"
BOTH_SLOWLY = f"{SLOWLY};delay@process=1,seconds=0.2"
TIMEOUT = 12.0
BUSY = 15.0  # seconds that a machine which runs other tests, too, may be late; alone it takes at most 17 s


def test_a_link_that_comes_back_costs_time_alone(tmp_path):
    """Down for 22 s, longer than gRPC waits by itself, less than half of `cluster.timeout_seconds`."""
    settings = {"num_epochs": 2.0, "cluster__timeout_seconds": 60.0, "strategy__lease_seconds": 5.0}
    strategies = ("allreduce", "pipeline", "servers")
    with lab_of(2, names="debian") as lab:
        running = {
            strategy: train(lab, tmp_path / strategy, strategy, 9000 + 10 * k, fault=fault, **_of(strategy, settings))
            for k, (strategy, fault) in enumerate(zip(strategies, (SLOWLY, SLOWLY, BOTH_SLOWLY), strict=True))
        }  # the servers' run is longer, 40 s for both: they must not end it before the cut, nor worker 0 alone after it
        for strategy in strategies:
            wait_for_update(tmp_path / strategy, 3)
        lab.cut(1)
        time.sleep(22)
        lab.mend(1)
        for strategy, processes in running.items():
            for code, said in ended(processes):
                assert code == 0, (strategy, said[-3000:])
    for strategy in ("allreduce", "pipeline"):
        finish(tmp_path / "whole" / strategy, 2, **STRATEGIES[strategy] | {"num_epochs": 2.0})
        wanted = flatten(final_state(tmp_path / "whole" / strategy).arrays())
        found = flatten(final_state(tmp_path / strategy).arrays())
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=f"{strategy}: {name}")
    assert final_state(tmp_path / "servers").examples_seen == 10 * 240


def _of(strategy: str, settings: dict) -> dict:
    if strategy == "servers":
        return settings | {"num_epochs": max(settings["num_epochs"], 10.0)}
    return {k: v for k, v in settings.items() if not k.startswith("strategy__")}


# Which host is cut off: workers are on hosts 0 and 1, the server is on host 2.
GONE = {
    "allreduce, process 1": ("allreduce", 1, {0: "process 1 was lost", 1: "process 0 was lost"}),
    "pipeline, process 0": ("pipeline", 0, {0: "process 1 was lost", 1: "process 0 was lost"}),
    "servers, their host": ("servers", 2, {0: "the parameter server 0 at", 1: "the parameter server 0 at"}),
    "servers, the chief's": ("servers", 0, {0: "the parameter server 0 at", 1: "worker 0 (the chief) was lost"}),
}


def test_a_host_that_is_gone_for_good_ends_everybody_in_time(tmp_path):
    """Whom it concerns ends within `cluster.timeout_seconds` + 5 s, with 1, and says who was lost."""
    settings = {"num_epochs": 500.0, "cluster__timeout_seconds": TIMEOUT, "strategy__lease_seconds": 5.0}
    for number, (name, (strategy, host, words)) in enumerate(GONE.items()):
        with lab_of(3) as lab:
            place = tmp_path / str(number)
            options = _of(strategy, settings)
            processes = train(lab, place, strategy, 9000, workers=2, server=2, fault=SLOWLY, **options)
            wait_for_update(place, 3)
            begin = time.monotonic()
            lab.cut(host)
            said = ended(processes[-2:] if host == 2 else processes, seconds=TIMEOUT + 60)[-2:]
            assert time.monotonic() - begin < TIMEOUT + 5 + BUSY, name
        for process, wanted in words.items():
            code, output = said[process]
            assert code == 1, (name, output[-2000:])
            assert wanted in output.splitlines()[-1], (name, output[-2000:])


def test_two_random_cuts_cost_time_alone(tmp_path):
    """The first two of a seed (`tools/lab_cuts.py`; experiments/results/cuts.md has more), under a user's time-outs."""
    cuts = lab_cuts.draw(2, 3, ("allreduce", "rounds"))
    with lab_of(4 * lab_run.HOSTS) as lab:
        for line in lab_cuts.cut_runs(lab, cuts, 3, tmp_path, lasts=(12.0, 480), fault="delay@seconds=0.2"):
            assert not line["problem"] and line["equal"], line


def test_losses_and_delays_cost_time_alone_and_a_profile_says_where(tmp_path):
    """One frame in a hundred is lost on each link, and a round trip takes 80 ms: an exchange, half of that at least."""
    settings = {"num_epochs": 0.5, "profile__updates": "(4,8)"}
    with lab_of(2, link=Link.parse("100mbit,20ms,1%")) as lab:
        running = {
            strategy: train(lab, tmp_path / strategy, strategy, 9000 + 10 * k, **settings)
            for k, strategy in enumerate(("allreduce", "rounds"))
        }
        for strategy, processes in running.items():
            for code, said in ended(processes):
                assert code == 0, (strategy, said[-3000:])
    for strategy, servers in (("allreduce", {}), ("rounds", {"servers": 1})):
        finish(tmp_path / "whole" / strategy, 2, **STRATEGIES[strategy] | settings | servers)
        wanted = flatten(final_state(tmp_path / "whole" / strategy).arrays())
        found = flatten(final_state(tmp_path / strategy).arrays())
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=f"{strategy}: {name}")
    for process, ms in _exchange_ms(tmp_path / "allreduce").items():
        assert ms > 40 > _exchange_ms(tmp_path / "whole" / "allreduce")[process]


def _exchange_ms(folder) -> dict[str, float]:
    """By process: inside the collectives of a profiled step, without waiting for the other."""
    (summary,) = (folder / "profile").glob("updates_*/summary.json")
    return {one["process"]: one["exchange_ms"] for one in json.loads(summary.read_text())["collectives"]}
