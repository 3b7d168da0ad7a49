"""Values between processes, as process 0 hands them on: who waits for whom, who is named, what differs."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxdist.cluster.membership import Membership
from jaxdist.cluster.rendezvous import RendezvousServer, differences, name_processes


@pytest.fixture
def server() -> RendezvousServer:
    return RendezvousServer(Membership(2))


def gather(server: RendezvousServer, process: int, value, *, name="join", timeout=60.0) -> list:
    fields = {"process": process, "name": name, "value": value, "timeout": timeout}
    return json.loads(server.methods["gather"](json.dumps(fields).encode()))


def refusal(call, *args, **kwargs) -> tuple[str, int]:
    with pytest.raises(ValueError) as e:
        call(*args, **kwargs)
    found = json.loads(str(e.value))
    return found["text"], found["code"]


def together(server: RendezvousServer, **kwargs) -> list[list]:
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(gather, server, process, 10 * process, **kwargs) for process in (1, 0)]
        return [call.result() for call in calls]


def test_everybody_gets_all_values_by_process_id(server):
    assert together(server) == [[0, 10]] * 2
    assert together(server, name="another") == [[0, 10]] * 2


def test_who_does_not_come_is_named_and_that_is_bad_input_at_the_start_alone(server):
    words = "process 1 of 2 did not come to 'join' within 0.05 s (process 1: never heard of)"
    assert refusal(gather, server, 0, 1, timeout=0.05) == (words, 2)
    assert together(server, name="again") == [[0, 10]] * 2
    words = "process 1 of 2 did not come to 'later' within 0.05 s (process 1: never heard of)"
    assert refusal(gather, server, 0, 1, name="later", timeout=0.05) == (words, 1)


def test_who_waits_in_vain_hears_who_was_refused(server):
    server._members.refused.append("process 7 on b was refused, with --process_id=0")
    text, _ = refusal(gather, server, 0, 1, timeout=0.05)
    assert text.endswith("(process 1: never heard of; process 7 on b was refused, with --process_id=0)")


def test_what_is_announced_is_told_to_whoever_asks_then_or_later(server):
    def ask(name, timeout):
        return json.loads(server.methods["await"](json.dumps({"name": name, "timeout": timeout}).encode()))

    replies: list = []
    waiting = threading.Thread(target=lambda: replies.append(ask("phase", 60)))
    waiting.start()
    server.announce("phase", {"what": "end"})
    waiting.join(60)
    assert [*replies, ask("phase", 0)] == [{"what": "end"}] * 2
    text, code = refusal(ask, "other", -1.0)
    assert text.startswith("process 0 did not announce 'other' within") and code == 1


def test_differences_are_told_by_field_and_process():
    signatures = [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 1, "b": "x", "c": [1]}]
    found = differences(signatures)
    assert found == ["a is 1 on processes 0, 2 but 2 on process 1", "c is null on processes 0, 1 but [1] on process 2"]
    assert differences(signatures[:1]) == [] and name_processes([3]) == "process 3"


def test_differing_versions_are_named():
    signatures = [{"jaxlib": "0.10.2"}, {"jaxlib": "0.10.1"}, {"jaxlib": "0.10.2"}]
    assert differences(signatures) == ['jaxlib is "0.10.2" on processes 0, 2 but "0.10.1" on process 1']
