"""A run directory is one run's: held while it goes on, described by itself, refused to another run."""

from __future__ import annotations

import fcntl
import json
import logging

import pytest

from jaxdist.checkpoint.run_directory import check_data, hold_run_directory
from jaxdist.errors import UsageError

VALUES = {"model.name": "densenet", "model.depth": 10, "optim.name": "sgd", "optim.momentum": 0.9, "seed": 0}


def hold(folder, **changes) -> dict:
    """Holds it for a moment; the configuration that it has then."""
    with hold_run_directory(str(folder), VALUES | {key.replace("__", "."): v for key, v in changes.items()}):
        return json.loads((folder / "config.json").read_text())


def test_it_is_made_and_has_the_configuration(tmp_path):
    found = hold(tmp_path / "a" / "b", data__options={"shape": (8, 8)}, strategy__balance=())
    assert found == VALUES | {"data.options": {"shape": [8, 8]}, "strategy.balance": []}
    assert not list(tmp_path.rglob("*.tmp"))


def test_no_two_runs_hold_it_at_once(tmp_path):
    with hold_run_directory(str(tmp_path), VALUES):
        with pytest.raises(UsageError, match="in use by a run that is still going: stop it first"):
            hold(tmp_path, seed=1)
        assert json.loads((tmp_path / "config.json").read_text()) == VALUES
    with pytest.raises(KeyError), hold_run_directory(str(tmp_path), VALUES):
        raise KeyError
    hold(tmp_path)  # however the run before ended


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__depth": 16}, "model.depth is 10 there and 16 here"),
        ({"optim__name": "adam", "seed": 3}, "optim.name is 'sgd' there and 'adam' here; seed is 0 there and 3 here"),
    ],
)
def test_another_model_s_run_is_refused_once_there_are_checkpoints(tmp_path, changes, words):
    hold(tmp_path)
    hold(tmp_path, **changes)
    hold(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match=f"holds another run: {words}. Choose another --workdir"):
        hold(tmp_path, **changes)
    assert json.loads((tmp_path / "config.json").read_text()) == VALUES


def test_a_run_goes_on_with_another_budget_and_strategy(tmp_path):
    hold(tmp_path, data__options={"shape": (8, 8)})
    (tmp_path / "checkpoints").mkdir()
    changes = {"optim__momentum": 0.5, "num_epochs": 9.0, "strategy__name": "pipeline"}
    assert hold(tmp_path, data__options={"shape": (8, 8)}, **changes)["strategy.name"] == "pipeline"


def test_what_cannot_be_written_or_read_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/run cannot be written: Not a directory"):
        hold(tmp_path / "file" / "run")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read .*it is not a run of jaxdist"):
        hold(tmp_path)


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuses(*_):
        raise OSError("Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuses)
    with caplog.at_level(logging.WARNING):
        hold(tmp_path)
    assert f"no locks (Function not implemented): make sure that no other run uses {tmp_path}" in caplog.text


def test_a_run_goes_on_with_the_data_that_it_began_with(tmp_path, caplog):
    check_data(str(tmp_path), {"train": "a", "evaluation": "b"})
    check_data(str(tmp_path), {"train": "c", "evaluation": "b"})  # nothing is saved yet
    (tmp_path / "checkpoints").mkdir()
    check_data(str(tmp_path), {"train": "c", "evaluation": "b", "holdout": "d"})
    with pytest.raises(UsageError, match=r"The train examples are not those with which .* \(c then, a now\): bring"):
        check_data(str(tmp_path), {"train": "a", "evaluation": "b"})
    with caplog.at_level(logging.WARNING):
        check_data(str(tmp_path), {"train": "c", "evaluation": "e"})
    assert "The evaluation examples are not those" in caplog.text and "not comparable" in caplog.text
    assert json.loads((tmp_path / "data.json").read_text()) == {"train": "c", "evaluation": "e"}
