"""When a process was started: by its own account, between two looks at the clock of the one that started it."""

from __future__ import annotations

import subprocess
import sys
import time

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


def test_where_the_kernel_does_not_say_it_is_now(monkeypatch):
    monkeypatch.setattr(process_start, "_OWN", "/nowhere/stat")
    before = time.monotonic()
    assert before <= process_start.started() <= time.monotonic()
