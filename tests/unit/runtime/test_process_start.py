"""When a process was started: by its own account, between two looks at the clock of the one that started it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from jaxdist.runtime import process_start

CODE = """
import time
begin = time.monotonic()
time.sleep(0.2)
from jaxdist.runtime import process_start
print(process_start.started(), begin)
"""


def test_it_is_when_the_interpreter_was_started():
    before = time.monotonic()
    output = subprocess.run([sys.executable, "-c", CODE], stdout=subprocess.PIPE, timeout=60, check=True).stdout
    started, first_line = map(float, output.split())
    assert before - 0.02 <= started <= first_line  # the kernel counts in hundredths of a second


@pytest.mark.parametrize(("name", "value"), [("_OWN", "/nowhere/stat"), ("_LONGEST_SECONDS", 0.0)])
def test_where_the_kernel_does_not_say_or_it_is_long_ago_it_is_now(monkeypatch, name, value):
    monkeypatch.setattr(process_start, name, value)
    before = time.monotonic()
    assert before <= process_start.started() <= time.monotonic()
