"""A command that cannot be read is refused with exit code 2, in this process; the command itself is in `processes/`."""

from __future__ import annotations

import sys

import pytest
from absl import flags
from helpers.processes import ROOT, TINY_CONFIG

from jaxdist.main import main
from jaxdist.runtime import last_words

# Of ml_collections', when it loads an experiment file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def command(monkeypatch, capsys):
    """main(), as if called with these arguments: (exit code, standard error). The flags are as before afterwards."""
    monkeypatch.chdir(ROOT)
    before = set(flags.FLAGS)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["jaxdist", *arguments])  # the flag of the experiment file reads it
        monkeypatch.setattr(last_words, "_said", [])  # as in a process of its own
        return main(sys.argv), capsys.readouterr().err

    yield call
    for name in set(flags.FLAGS) - before:  # --config.KEY
        delattr(flags.FLAGS, name)
    for name in ("config", "workdir"):
        flags.FLAGS[name].unparse()
    flags.FLAGS.unparse_flags()


def test_without_flags(command):
    code, said = command()
    assert code == 2 and "--config=FILE" in said


def test_unknown_key(command, tmp_path):
    code, said = command(f"--config={TINY_CONFIG}", f"--workdir={tmp_path / 'run'}", "--config.optim.learning_rte=0.1")
    assert code == 2 and "'optim.learning_rte'; nearest: 'optim.learning_rate'" in said
    assert "Traceback" not in said and not (tmp_path / "run").exists()


def test_missing_config_file(command, tmp_path):
    code, said = command("--config=experiments/nowhere.py", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "nowhere.py" in said
    assert "Traceback" not in said and not (tmp_path / "run").exists()


def test_help_says_where_processes_listen(capsys):
    assert main(["jaxdist", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--coordinator_address: HOST:PORT of process 0" in said and "--config.cluster.port_range" in said
