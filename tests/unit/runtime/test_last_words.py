"""The last line of a process, in one form, on standard error and in its log file."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from helpers.processes import ROOT, environment

from jaxdist.runtime import last_words


def test_of_two_threads_that_end_the_process_the_first_has_the_line_and_the_code():
    program = """
import logging, os, threading, time
from jaxdist.runtime import last_words

class Slow(logging.FileHandler):
    def emit(self, record):
        begun.set()
        time.sleep(0.5)

begun = threading.Event()
logging.getLogger().addHandler(Slow(os.devnull))
threading.Thread(target=lambda: os._exit(last_words.say(1, "the first.", alone=True)), daemon=True).start()
begun.wait()
os._exit(last_words.say(75, "the second.", alone=True))
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (1, "jaxdist: error: the first.\n")


def test_nothing_comes_after_a_line_that_is_alone():
    program = (
        "import os; from jaxdist.runtime import last_words; os.write(2, b'before\\n'); "
        "last_words.say(1, 'it was so.', alone=True); os.write(2, b'after\\n')"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ended.stderr == "before\njaxdist: error: it was so.\n"


@pytest.mark.parametrize(
    ("code", "outcome"), [(0, "done"), (75, "stopped"), (130, "stopped"), (143, "stopped"), (1, "error"), (2, "error")]
)
def test_the_outcome_is_that_of_the_exit_code(tmp_path, capsys, monkeypatch, code, outcome):
    monkeypatch.setattr(last_words, "_said", [])
    handler = logging.FileHandler(tmp_path / "log")
    logging.getLogger().addHandler(handler)
    try:
        last_words.say(code, "it was so.")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert capsys.readouterr().err == f"jaxdist: {outcome}: it was so.\n" == (tmp_path / "log").read_text()
