"""`tools/bench_input.py`: what it takes for a wait, and that every case is measured (measuring takes minutes)."""

from __future__ import annotations

import itertools

import bench
import bench_input
import pytest
from bench_input import Waits
from helpers import tiny_config
from helpers.clock import Clock

from jaxdist import data
from jaxdist.train import setup


class Training:
    """A step takes a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.batches = clock, []

    def place(self, batch):
        return batch

    def step(self, batch) -> None:
        self.batches.append(batch)
        self.clock.sleep(1.0)


@pytest.fixture
def training(monkeypatch) -> Training:
    clock = Clock()
    monkeypatch.setattr(bench_input, "time", clock)
    return Training(clock)


def test_a_wait_is_that_for_the_next_batch_of_the_steps_that_count(training):
    def batches():
        for k in itertools.count():
            training.clock.sleep(8.0 if k < 3 else 2.5 if k == 4 else 0.25)  # what was slow at first does not count
            yield k

    assert bench_input.visible_wait(training, batches(), 3, 5) == Waits(median=250.0, mean=700.0, step=1700.0)
    assert training.batches == list(range(8))


def test_every_case_has_a_wait_and_their_table(training, monkeypatch):
    config = tiny_config.get_config()
    examples = setup.load_examples(config)
    dataset = data.load("synthetic", options=config.data.options.to_dict())
    opened = dict.fromkeys(("none", "memory", "file", "beside"), dataset)

    def wait(training, batches, skipped, timed):
        first = next(batches)
        assert first["inputs"]["image"].shape == (4, 8, 8, 1)
        wait = 3.0 if len(waits) % 2 == 0 else 0.5
        return Waits(wait, 2 * wait, 10.0)

    waits: list[str] = []
    names = [bench_input.case_name(*case) for case in bench_input.CASES]

    def noted(*arguments):
        found = wait(*arguments)
        waits.append("")
        return found

    monkeypatch.setattr(bench_input, "visible_wait", noted)
    monkeypatch.setattr(bench_input, "_grain", lambda *_: None)
    line = bench_input._line("synthetic", 4, 1, training, examples, opened)
    assert list(line["wait_ms"]) == list(line["step_ms"]) == names == [*names[:6], "none/2/2 workers"]
    assert line["wait_mean_ms"]["none/0"] == 6.0
    assert line["ratio"] == {"none": 6.0, "memory": 6.0, "file": 6.0, "none/0 over file/2": 6.0}
    opened_line = {"examples": 60000, "open_s": {"none": 1.5}, "decode_us_an_example": {"one thread": 200.0}}
    text = bench_input.table([opened_line, line])
    assert "one thread 200.0" in text and "| 4 | 10.0 | 3.000 | 0.500 | 3.000 | 0.500 | 3.000 | 0.500 | 3.000 |" in text
    assert text.endswith("| 4 | 6.0 | 6.0 | 6.0 | 6.0 |")


def test_sizes_that_are_none_are_refused(capsys):
    for sizes in ("", "96,", "96,x", "0"):
        with pytest.raises(SystemExit, match=f"--batches={sizes}: a list of sizes"):
            bench.main(["input", f"--batches={sizes}"])
