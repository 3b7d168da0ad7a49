"""The command itself, `python -m jaxdist.main`, in an interpreter of its own; and that the other tests' short cut, a
process forked from one that has done the imports (`helpers/preloaded.py`), says and does the same."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from helpers.compiled import OPTIMIZED
from helpers.outcomes import final_state
from helpers.processes import ROOT, environment, long, main_command, start

from jaxdist.runtime import allocator
from jaxdist.state import flatten


def fresh_and_forked(folder, *flags: str) -> list[tuple[int, list[str]]]:
    """(exit code, lines) of the command in its own interpreter, in 'fresh', and of the forked process, in 'forked'."""
    ended = []
    for name in ("fresh", "forked"):
        # A shell leaves the ~ of --workdir=~/run alone.
        env = OPTIMIZED | {"HOME": str(folder)}
        process = start(main_command(f"~/{name}", *flags), env, forked=name == "forked")
        output, _ = process.communicate(timeout=120)
        ended.append((process.returncode, output.splitlines()))
    return ended


def untimed(line: str) -> str:
    return re.sub(r"/(fresh|forked)\b", "/RUN", re.sub(r"\d+([.,:]\d+)*", "N", line))


@pytest.mark.parametrize("family", [("cnn",), long(("densenet", "model.depth=10"))], ids=lambda family: family[0])
def test_it_trains_and_evaluates_and_the_forked_process_does_the_same(tmp_path, family):
    name, *settings = family
    model = (f"model.name={name}", *settings, "model.param_dtype=float32", "strategy.name=single")
    flags = [f"--config.{flag}" for flag in (*model, "global_batch_size=16", "max_updates=4")]
    (code, said), (forked_code, forked_said) = fresh_and_forked(tmp_path, *flags)
    assert code == forked_code == 0, (said, forked_said)
    assert re.fullmatch(r"Validation accuracy \d+\.\d\d % after \d+ s\.", said[-2])
    assert said[-1].startswith(f"jaxdist: done: 4 updates; results are in {tmp_path / 'fresh'} (summary.json")
    assert said[-2].split("after")[0] == forked_said[-2].split("after")[0]
    assert forked_said[-1].startswith(f"jaxdist: done: 4 updates; results are in {tmp_path / 'forked'} (")
    assert [untimed(line) for line in said] == [untimed(line) for line in forked_said]
    assert any("INFO jaxdist process worker-0, pid" in line for line in said)
    logs = [(tmp_path / name / "logs" / "worker-0.log").read_text().splitlines() for name in ("fresh", "forked")]
    assert [untimed(line) for line in logs[0]] == [untimed(line) for line in logs[1]] != []
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("fresh", "forked")]
    assert summaries[0].keys() == summaries[1].keys()
    spent = summaries[0]["system"]["processes"]["worker-0"]["cpu"]
    assert 0.0 < spent["mean"] <= spent["max"] and (tmp_path / "fresh" / "system" / "worker-0.jsonl").exists()
    for key in ("updates", "examples_seen", "train_loss", "validation_loss", "validation_accuracy"):
        assert summaries[0][key] == summaries[1][key]
    a, b = (flatten(final_state(tmp_path / name).arrays()) for name in ("fresh", "forked"))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_it_refuses_and_the_forked_process_does_the_same(tmp_path):
    (code, said), forked = fresh_and_forked(tmp_path, "--config.optim.learning_rte=0.1")
    assert code == 2 and (code, said) == forked
    assert said[-1].startswith("jaxdist: error:") and "nearest: 'optim.learning_rate'" in said[-1]
    assert not list(tmp_path.iterdir())


def test_what_a_process_has_imported(tmp_path):
    """A forked one finds what it needs, and training imports no TensorFlow, not even with TensorFlow Datasets."""
    process = start([sys.executable, "-m", "helpers.imports", str(tmp_path)], {})
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert json.loads(output.splitlines()[-1]) == {"preloaded": True, "tensorflow": False}


@pytest.mark.skipif(not allocator._large_pages(), reason="the kernel or glibc has no large pages")
def test_it_starts_again_for_large_pages_in_the_same_process(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        f"import os; print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), file=open({str(tmp_path / 'seen')!r}, 'a'))"
    )
    env = {k: v for k, v in environment().items() if k != "GLIBC_TUNABLES" and not k.startswith("MALLOC_")}
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    command = [sys.executable, "-W", "error", "-m", "jaxdist.main", "--help"]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and "--workdir" in ended.stdout, ended.stderr
    first, second = (line.split() for line in (tmp_path / "seen").read_text().splitlines())
    assert first == [second[0], "None"] and second[1] == allocator.TUNABLES


def test_a_closed_stream_changes_nothing(tmp_path):
    """Nobody reads what is said; they are closed from the beginning, or the reader goes away."""
    said = {"both": ">&- 2>&-", "gone": "2>&1 | true"}
    started = {}
    for name, where in said.items():
        words = main_command(tmp_path / name, max_updates=2, global_batch_size=8, strategy__name="single")
        line = f"set -o pipefail; {shlex.join(words)} {where}"
        started[name] = subprocess.Popen(["bash", "-c", line], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    for name, process in started.items():
        assert process.wait(120) == 0, name
        assert json.loads((tmp_path / name / "summary.json").read_text())["updates"] == 2
        log = (tmp_path / name / "logs" / "worker-0.log").read_text()
        assert "jaxdist process worker-0" in log and "Traceback" not in log and "Logging error" not in log
    assert "Nobody reads this process's std" in log  # of the last, whose reader went away
