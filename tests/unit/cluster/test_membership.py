"""Who may come in, and whose failure ends the run, as process 0 knows it."""

from __future__ import annotations

import json
import threading

import pytest

from jaxdist.cluster.membership import Membership


@pytest.fixture
def members() -> Membership:
    return Membership(2)


def caller(process: int, token: str, run: str = "") -> str:
    return json.dumps({"run": run, "process": process, "token": token, "name": f"process {token}"})


def refused(members: Membership, *args, method: str = "gather") -> str:
    text = members.admit(method, caller(*args))
    return json.loads(text)["text"] if text else ""


def request(**fields) -> bytes:
    return json.dumps(fields).encode()


def test_with_fate_sharing_off_a_process_may_fail_and_be_started_again(members):
    members.started = True
    assert refused(members, 1, "first") == refused(members, 1, "first") == ""
    assert refused(members, 1, "second") == "--process_id=1 is taken by process first; process second has it, too"
    assert refused(members, 2, "other") == "a process has the id 2, but ids run from 0 to 1"
    members.announce_phase(1)
    members.methods["fail"](request(process=1, text="no memory", code=1))
    assert members.failure == "" and refused(members, 1, "second") == ""
    members.announce_phase(-1)
    members.methods["fail"](request(process=1, text="no memory", code=1))
    assert members.failure == "process 1 failed: no memory"


def test_a_stranger_is_refused_with_what_differs_and_changes_nothing():
    members = Membership(2, "workdir=/a")
    assert refused(members, 1, "stranger", "workdir=/b").startswith(
        "another run is served there: workdir=/a, and this process belongs to workdir=/b. Two jobs use one port"
    )
    assert refused(members, 1, "own", "workdir=/a") == ""
    assert members.refused == ["process stranger was refused, with --process_id=1"] and not members.failure


def test_who_is_missing_is_named_with_what_is_known_of_it(members):
    assert members.absent({0}) == "process 1: never heard of"
    refused(members, 0, "first")
    assert members.absent({1}) == "process 0: process first, last heard of 0 s ago" and members.absent({0, 1}) == ""


def test_who_has_only_said_hello_may_be_killed_and_started_again(members):
    assert refused(members, 1, "killed", method="hello") == "" and not members.tokens
    assert refused(members, 1, "again") == refused(members, 1, "late", method="hello") == ""
    assert refused(members, 2, "other", method="hello") == "a process has the id 2, but ids run from 0 to 1"


def test_who_has_no_token_is_noted_once_a_host(members):
    for host in ("10.0.0.2", "10.0.0.3", "10.0.0.2"):
        members.note_denied(host)
    words = "was refused: the token is missing or another one (JAXDIST_TOKEN)"
    assert members.refused == [f"a process at {host} {words}" for host in ("10.0.0.2", "10.0.0.3")]


def test_before_the_start_a_process_that_was_killed_has_a_successor(members):
    assert refused(members, 1, "killed") == ""
    timer = threading.Timer(0.2, lambda: withdraw(members, 1))
    timer.start()
    assert refused(members, 1, "again") == ""
    timer.join()


def withdraw(members: Membership, process: int) -> None:
    with members.change:
        members.withdraw(process)


def test_a_run_fails_for_its_first_reason(members):
    members.raise_failure()
    members.methods["fail"](request(process=1, text="no memory", code=75))
    members.methods["fail"](request(process=0, text="no time", code=1))
    assert (members.failure, members.code) == ("process 1 was stopped: no memory", 75)
    with pytest.raises(ValueError) as e:
        members.raise_failure()
    assert json.loads(str(e.value)) == {"text": "process 1 was stopped: no memory", "code": 75}


def test_the_phase_under_way_is_told_and_the_chief_s_failure_ends_even_such_a_run(members):
    assert json.loads(members.methods["phase"](b"")) == -1
    members.announce_phase(3)
    assert json.loads(members.methods["phase"](b"")) == 3
    members.methods["fail"](request(process=0, text="no memory", code=1))
    assert members.failure == "process 0 failed: no memory"


def test_the_service_ends_once_all_have_left(members):
    waiting = threading.Thread(target=members.wait_until_all_left, args=(60.0,))
    waiting.start()
    members.methods["leave"](request(process=0))
    waiting.join(0.3)
    assert waiting.is_alive()
    members.methods["leave"](request(process=1))
    waiting.join(60)
    assert not waiting.is_alive()
