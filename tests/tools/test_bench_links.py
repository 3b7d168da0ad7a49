"""`tools/bench_links.py` with bench_links_needed and bench_links_host: what is asked for, counted and said of it."""

from __future__ import annotations

import json

import bench
import bench_links
import lab
import pytest
from bench_links_needed import Bytes, excess, needed
from helpers.hosts import lab_of
from lab_link import Link

MODEL = Bytes(params=1000, small=200, stats=100)


@pytest.mark.parametrize(
    ("strategy", "hosts", "each"),
    [
        ("allreduce", 2, 1100),
        ("allreduce", 4, 1650),
        ("zero1", 4, 1650),
        ("fsdp", 2, 1500),  # 3/2 of what is divided, 800; once what is not, and the statistics
        ("torch", 2, 1050),
    ],
)
def test_every_host_of_a_ring_needs_the_same(strategy, hosts, each):
    assert needed(strategy, hosts, MODEL) == [(each, each)] * hosts


def test_a_server_gets_what_all_workers_send_and_a_stage_gets_as_much_as_it_sends():
    for strategy in ("server_rounds", "server_async"):
        assert needed(strategy, 3, MODEL) == [(1100, 1100)] * 3 + [(3300, 3300)]
    assert needed("pipeline", 3, MODEL, [10, 30, 20]) == [(10, 10), (30, 30), (20, 20)]
    with pytest.raises(ValueError, match="no strategy 'other'"):
        needed("other", 2, MODEL)
    assert excess([103, 103], [100, 100]) == 3.0 and excess([1], [0]) == 0.0


def test_the_bytes_of_a_model_are_those_that_its_page_says():
    assert bench_links.model_bytes("cnn") == Bytes(4 * 1_199_882, 4 * (288 + 32 + 64 + 128 + 10), 0)


def note(time: float, examples: int, payload: int, frames: int) -> dict:
    counted = {"bytes": payload + 66 * frames, "packets": frames}
    return {"time": time, "examples": examples} | {f"{way}_{k}": n for way in ("rx", "tx") for k, n in counted.items()}


def test_figures_are_of_whole_repetitions_and_without_headers():
    rows = [note(0.4 * k, 20 * k, 1100 * k, 7 * k) for k in range(10)]  # 0.4 s and 1100 bytes an update of 20 examples
    chosen = bench_links.repetitions(rows, 1.0)
    assert [row["examples"] for row in chosen] == [0, 60, 120, 180]
    case = bench_links.Case("server_rounds", "cnn", 10, 2, (Link(),), 3, 1.0)
    server = [note(0.05 * k, 0, 275 * k, k) for k in range(80)]  # sampled all the time
    line = bench_links.summary(case, chosen, [rows, rows, server], MODEL)
    assert line["images_per_second"] == {"min": 50.0, "median": 50.0, "max": 50.0} and line["steps"] == 9.0
    assert line["sent"] == [1100, 1100, 2200] and line["excess_percent"] == [0.0, 0.0]


def test_a_table_has_a_row_for_each_strategy_and_a_column_for_each_link():
    rate = {"min": 1.0, "median": 2.0, "max": 3.4}
    one = {"strategy": "fsdp", "hosts": 2, "link": "free", "images_per_second": rate, "ratio": 0.5}
    one |= {"received": [1000, 3000, 9], "needed_received": [1000, 1000, 9], "excess_percent": [99.0, 100.0]}
    failed = {"strategy": "fsdp", "hosts": 2, "link": "1gbit", "error": "it ended"}
    rows = bench_links.table([one, failed]).splitlines()
    assert rows[0] == "| strategy | hosts | free | 1gbit | kB a step | needed | excess % |"
    assert rows[2:] == ["| fsdp | 2 | 2 [1, 3] (0.50) | failed | 2 | 1 | 100.0 to 100.0 |"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--link=fast", "--hosts=2"], "--link=fast: 'fast' is not a number"),
        (["--link=1gbit,5ms", "--hosts=2"], "delays and losses need a rate of at most 100mbit"),
        (["--link=free,5ms", "--hosts=2"], "delays and losses need a rate of at most 100mbit"),
        (["--link=free", "--hosts="], "--hosts=: say how many"),
        (["--link=free", "--hosts=2,x"], "--hosts=2,x: say how many"),
        (["--hosts=1"], "--hosts=1: say how many"),
        (["--hosts=2", "--strategy=switch"], "--strategy=switch: over links there are all, allreduce"),
        (["--hosts=2", "--dtype=bfloat16"], "there is no --dtype"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(capsys, arguments, words):
    with pytest.raises(SystemExit) as refused:
        bench.main(["train", *arguments])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("bench: ") and words in said and len(said.splitlines()) == 1


def test_a_machine_that_allows_no_laboratory_and_one_without_torch(monkeypatch, capsys):
    monkeypatch.setattr(lab.shutil, "which", lambda tool: None)
    with pytest.raises(SystemExit) as refused:
        bench.main(["train", "--hosts=2"])
    assert refused.value.code == 2 and "A laboratory needs unshare" in capsys.readouterr().err
    monkeypatch.setattr(bench_links.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bench_links.Unusable, match="which is not installed"):
        bench_links.strategies_of("", "torch")
    assert bench_links.strategies_of("fsdp,fsdp", "") == ["fsdp"]
    assert [str(link) for link in bench_links.links_of(["all", "10mbit,1ms"])][3:] == ["10mbit", "10mbit,1ms"]


@pytest.mark.hosts
@pytest.mark.long
def test_two_hosts_train_over_two_links_and_send_what_a_ring_needs(capsys):
    with lab_of(1):
        pass
    arguments = ["--link=free", "--link=100mbit,1ms", "--hosts=2", "--model=cnn", "--batch=4", "--pairs=2"]
    assert bench.main(["train", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    free, slow = (json.loads(line) for line in lines[:2])
    for line in (free, slow):
        assert -2 < line["excess_percent"][0] < 3, line
    assert slow["step_ms"]["median"] > 8 * slow["needed_sent"][0] / 100e6 * 1000  # no faster than the link
    assert "switch_cpu_share" in slow and "switch_cpu_share" not in free
    assert lines[3].startswith("| strategy | hosts | free | 100mbit,1ms |")
