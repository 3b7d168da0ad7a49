"""A run's rows and summary on disk: whole lines, the chief's alone."""

from __future__ import annotations

import json

import pytest
from helpers.clock import Clock

from jaxdist.train import writer
from jaxdist.train.writer import Writer


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(writer, "time", clock)
    return clock


class Events:
    """In place of TensorBoard's writer."""

    def __init__(self, folder: str, flush_secs: int) -> None:
        self.folder, self.scalars, self.closed = folder, [], False

    def add_scalar(self, *scalar) -> None:
        self.scalars.append(scalar)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(monkeypatch) -> list[Events]:
    import tensorboardX

    made: list[Events] = []
    monkeypatch.setattr(tensorboardX, "SummaryWriter", lambda *a, **kw: made.append(Events(*a, **kw)) or made[-1])
    return made


def test_rows_are_lines_with_kind_and_time_and_numbers_go_to_tensorboard(tmp_path, clock, made):
    rows = Writer(str(tmp_path), True, clock.now - 5.0)
    rows.write("train", updates=3, loss=0.5, phase="allreduce")
    clock.sleep(1.25)
    rows.write("event", event="saved", updates=3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # there before it is closed
    assert [json.loads(line) for line in lines] == [
        {"kind": "train", "time": 5.0, "updates": 3, "loss": 0.5, "phase": "allreduce"},
        {"kind": "event", "time": 6.25, "event": "saved", "updates": 3},
    ]
    rows.close()
    rows.close()
    (events,) = made
    assert events.scalars == [("train/loss", 0.5, 3)] and events.closed
    assert events.folder == str(tmp_path / "tensorboard")


def test_a_line_that_a_killed_run_left_unfinished_is_cut_off(tmp_path, clock, made):
    path = tmp_path / "metrics.jsonl"
    for before, kept in (('{"a": 1}\n{"b"', '{"a": 1}\n'), ('{"b"', ""), ('{"a": 1}\n', '{"a": 1}\n'), ("", "")):
        path.write_text(before)
        rows = Writer(str(tmp_path), True, clock.now)
        rows.write("event", event="resumed")
        rows.close()
        text = path.read_text()
        assert text.startswith(kept) and json.loads(text.removeprefix(kept))["event"] == "resumed"


def test_a_summary_is_written_in_one_piece(tmp_path, clock, made):
    rows = Writer(str(tmp_path), True, clock.now)
    for updates in (3, 4):
        rows.summarise({"updates": updates})
        assert json.loads((tmp_path / "summary.json").read_text()) == {"updates": updates}
    with pytest.raises(TypeError):
        rows.summarise({"updates": object()})
    rows.close()
    assert json.loads((tmp_path / "summary.json").read_text()) == {"updates": 4}
    assert not (tmp_path / "summary.json.tmp").exists()


def test_others_than_the_chief_write_nothing(tmp_path, clock, made):
    rows = Writer(str(tmp_path), False, clock.now - 2.0)
    rows.write("train", updates=1, loss=0.5)
    rows.summarise({})
    rows.close()
    assert rows.elapsed() == 2.0 and not made and not list(tmp_path.iterdir())
