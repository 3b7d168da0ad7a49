"""`tools/lab_cuts.py` and `lab_run.py`: which cuts are drawn, and what is said of a run that was cut.

Cuts themselves: `hosts/test_links.py`.
"""

from __future__ import annotations

import json

import lab_cuts
import lab_run
import pytest
from lab_cuts import Cut
from lab_run import Outcome

GOOD = {"server": 0, "worker 0": 0, "worker 1": 0}


def test_cuts_are_drawn_from_the_seed_over_strategies_hosts_and_moments():
    cuts = lab_cuts.draw(60, 7, ("allreduce", "servers"))
    assert cuts == lab_cuts.draw(60, 7, ("allreduce", "servers")) != lab_cuts.draw(60, 8, ("allreduce", "servers"))
    assert cuts[:2] == lab_cuts.draw(2, 7, ("allreduce", "servers")), "more cuts begin with the same ones"
    assert {c.host for c in cuts if c.strategy == "allreduce"} == {0, 1}, "nothing runs on its third host"
    assert {c.host for c in cuts if c.strategy == "servers"} == {0, 1, 2}
    assert all(0 <= c.moment < 1 and 1 <= c.seconds <= 20 for c in cuts)
    assert min(c.moment for c in cuts) < 0.1 and max(c.moment for c in cuts) > 0.9


@pytest.mark.parametrize(
    ("strategy", "host", "codes", "numbers", "events", "problem", "known"),
    [
        ("rounds", 0, GOOD, "", "", "", ""),
        ("rounds", 0, GOOD | {"worker 1": None}, "", "", "it hung", ""),
        ("rounds", 0, GOOD | {"server": 1}, "", "", "it ended", ""),
        ("servers", 1, GOOD | {"worker 1": 1}, "", "", "", "worker 1 came back after the end"),
        ("servers", 1, GOOD | {"worker 1": -6}, "", "", "it ended", ""),
        ("servers", 2, GOOD | {"worker 1": 1}, "", "", "it ended", ""),
        ("servers", 1, GOOD | {"worker 1": 1, "server": 1}, "", "", "it ended", ""),
        ("allreduce", 1, {"worker 0": 0, "worker 1": 1}, "", "", "it ended", ""),
        ("rounds", 1, GOOD, lab_cuts.OTHER_NUMBERS, "", lab_cuts.OTHER_NUMBERS, ""),
        ("rounds", 1, GOOD, lab_cuts.OTHER_NUMBERS, '{"event": "worker_lost"}', "", "rounds without it"),
        ("rounds", 1, GOOD, "3 examples, not 4", '{"event": "worker_lost"}', "3 examples, not 4", ""),
    ],
)
def test_what_is_said_of_a_run(tmp_path, monkeypatch, strategy, host, codes, numbers, events, problem, known):
    (tmp_path / "metrics.jsonl").write_text(events)
    monkeypatch.setattr(lab_cuts, "compare", lambda *_: (numbers, {"equal": not numbers}))
    found = Outcome(tmp_path, codes, 40.0, dict.fromkeys(codes, "first\nlast"), 10.0, 13.0, "Compiling", 6)
    line = lab_cuts.row(Cut(1, strategy, host, 0.5, 1.0, 3.0), 9, found, Outcome(tmp_path, GOOD, 35.0, {}))
    assert line["problem"] == problem and known in line.get("known", "")
    assert ("known" in line) == bool(known) and ("said" in line) == bool(problem)
    assert line.get("said", {"worker 0": "last"})["worker 0"] == "last"
    assert (line["second"], line["lasted"], line["seed"], line["uncut_seconds"]) == (10.0, 3.0, 9, 35.0)
    json.dumps(line)


def test_a_part_of_a_laboratory_has_hosts_of_its_own():
    done = []

    class Lab:
        names, addresses = list("abcdefg"), list("ABCDEFG")

        def cut(self, host):
            done.append(host)

        def popen(self, host, command):
            done.append((host, command))

    first, second = lab_run.parts(Lab())
    assert (second.names, second.addresses) == (list("def"), list("DEF")) and first.names == list("abc")
    second.cut(1)
    second.popen(2, ["true"])
    assert done == [4, (5, ["true"])]


def test_wrong_flags(tmp_path, capsys):
    for flags, words in (
        ([f"--workdir={tmp_path}"], "is there already"),
        (["--strategies=allreduce,odd"], "odd is none of allreduce, "),
    ):
        with pytest.raises(SystemExit) as refused:
            lab_cuts.main(flags)
        assert refused.value.code == 2 and words in capsys.readouterr().err
