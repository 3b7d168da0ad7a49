"""malloc's settings: where they are made, and where they are left alone. In a process of its own: they last."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from helpers.processes import ROOT

from jaxdist.runtime import allocator


def test_what_is_freed_stays_with_the_process():
    code = """
import resource
from jaxdist.runtime.allocator import keep_freed_memory
def faults(size=2**26):  # pages that one more buffer of this size touches for the first time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fresh = [faults() for _ in range(3)][-1]
assert keep_freed_memory()
kept = [faults() for _ in range(3)][-1]
print(fresh, kept)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT, env={})
    assert ended.returncode == 0, ended.stderr
    fresh, kept = map(int, ended.stdout.split())
    assert kept < fresh / 4  # pages may be of 2 MiB


def test_somebody_s_own_settings_and_other_systems_are_left_alone(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda name: pytest.fail("was touched"))
        patch.setenv("MALLOC_ARENA_MAX", "2")
        assert not allocator.keep_freed_memory()
        patch.delenv("MALLOC_ARENA_MAX")
        patch.setattr(sys, "platform", "darwin")
        assert not allocator.keep_freed_memory()

    def no_glibc(name):
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", no_glibc)
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_"):
        monkeypatch.delenv(name, raising=False)
    assert not allocator.keep_freed_memory()
