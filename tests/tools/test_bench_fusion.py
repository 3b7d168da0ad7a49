"""`tools/bench_fusion.py`: figures of profiles whose times are known, sides, and what is refused."""

from __future__ import annotations

import bench
import bench_fusion
import pytest
from bench_fusion import buffers_of, figures_of, lines, options_of, table
from bench_links import Unusable
from helpers.profile_parts import FIRST, SECOND, row, write_part
from lab_link import Link


def test_figures_of_a_profile_whose_times_are_known(tmp_path):
    # Inside: worker 0 for 65 ms in three steps, worker 1 for 50; they wait for 20 and 5. Worker 0 computed in 6 of its.
    write_part(tmp_path, "worker-0", [row("all-reduce", 59 / 3), row("copy", 1.0)], FIRST)
    write_part(tmp_path, "worker-1", [row("all-reduce", 50 / 3)], SECOND, step_ms=90.0)
    found = figures_of(tmp_path)
    wanted = {"collectives": 1.0, "step_ms": 95.0, "inside_ms": 115 / 6, "waiting_ms": 25 / 6, "exchange_ms": 15.0}
    assert found == pytest.approx(wanted | {"hidden_ms": 1.0, "matched": 1.0}, abs=1e-3)


def test_calls_that_overlap_count_once(tmp_path):
    calls = [("all-reduce.1", 0, 0.010, 0.040), ("all-reduce.2", 0, 0.020, 0.070)]  # 60 ms in one step, 80 in all
    for process in ("worker-0", "worker-1"):
        write_part(tmp_path, process, [row("all-reduce", 60.0)], calls, steps=1)
    found = figures_of(tmp_path)
    assert (found["inside_ms"], found["hidden_ms"]) == pytest.approx((60.0, 0.0), abs=1e-3)
    assert (found["collectives"], found["waiting_ms"]) == (2.0, 0.0)


def test_a_profile_that_is_missing_cut_or_alone_gives_no_figures(tmp_path):
    with pytest.raises(RuntimeError, match="No process has written a profile"):
        figures_of(tmp_path)
    write_part(tmp_path, "worker-0", [row("copy", 1.0)])
    with pytest.raises(RuntimeError, match="worker-0 was in no collective"):
        figures_of(tmp_path)
    write_part(tmp_path, "worker-0", [row("all-reduce", 20.0)], FIRST, cut=True)
    with pytest.raises(RuntimeError, match="was cut"):
        figures_of(tmp_path)


def of(step, inside, exchange):
    zero = dict.fromkeys(("waiting_ms", "hidden_ms"), 0.0)
    return {"collectives": 1.0, "matched": 1.0, "step_ms": step, "inside_ms": inside, "exchange_ms": exchange} | zero


def test_ratios_are_those_of_one_round_beside_the_largest_size():
    rounds = [{0: of(30.0, 8.0, 6.0), 64: of(10.0, 4.0, 3.0)}, {0: of(100.0, 9.0, 8.0), 64: of(50.0, 3.0, 1.0)}]
    buffers = {0: [[0], [1]], 1: [[0, 1]], 64: [[0, 1]]}
    none, one, all_of_it = lines(rounds, {0: 0, 1: 64, 64: 64}, buffers)
    assert none["beside_64"]["step_ms"] == {"min": 2.0, "median": 2.5, "max": 3.0}
    assert none["beside_64"]["exchange_ms"]["max"] == 8.0 and (none["buffers"], none["rounds"]) == (2, 2)
    assert one | {"fusion_megabytes": 64} == all_of_it and one["measured_as"] == 64
    about = {"model": "cnn", "processes": 2, "link": "loopback"}
    rows = table([about | none, about | {"error": "it ended"}]).splitlines()
    assert rows[2] == "| cnn | 2 | loopback | 0 | 2 | 1 | 65.0 | 8.5 | 0.0 | 7.0 | 0.0 | 2.50 [2.00, 3.00] |"
    assert rows[3].startswith("| cnn | 2 | loopback | failed |") and len({r.count("|") for r in rows}) == 1


def test_sizes_that_give_the_same_buffers_are_known():
    found = {size: len(buffers) for size, buffers in buffers_of("cnn", [0, 1, 4, 64]).items()}
    assert found == {0: 12, 1: 3, 4: 3, 64: 1}  # 8 arrays and 4 numbers; a matrix of 4.7 MB is a buffer by itself


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--processes=1"], "--processes=1: say how many"),
        (["--processes=2,x"], "--processes=2,x: say how many"),
        (["--fusion=-1,64"], "--fusion=-1,64: name the megabytes"),
        (["--fusion=all"], "--fusion=all: name the megabytes"),
        (["--link=fast"], "--link=fast: 'fast' is not a number"),
        (["--pairs=0"], "--batch and --pairs are at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(capsys, arguments, words):
    with pytest.raises(SystemExit) as refused:
        bench.main(["fusion", *arguments])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("bench: ") and words in said and len(said.splitlines()) == 1


def test_links_are_loopback_or_those_of_a_laboratory(monkeypatch):
    links = ["loopback", "1gbit", "loopback"]
    assert options_of("cnn", "2,5", "0,64", links, 26, 3) == ([2, 5], [0.0, 64.0], [None, Link(1e9)])
    monkeypatch.setattr(bench_fusion, "Lab", lambda *_, **__: (_ for _ in ()).throw(bench_fusion.NoLab("none here")))
    with pytest.raises(Unusable, match="none here"):
        list(bench_fusion.measure("cnn", 26, [2], [0.0, 64.0], [Link(1e9)], 1))
