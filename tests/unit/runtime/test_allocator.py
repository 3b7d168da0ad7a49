"""malloc's settings: where they are made, and where they are left alone. In processes of their own: they last."""

from __future__ import annotations

import ctypes
import os
import pathlib
import subprocess
import sys

import pytest
from helpers.processes import ROOT

from jaxdist.runtime import allocator, large_blocks

FAULTS = """
import resource, sys
from jaxdist.runtime import allocator
def faults(size):  # pages that one more buffer of this size touches for the first time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def third(size):
    return [faults(size) for _ in range(3)][-1]
"""


def printed(code: str, **environ: str) -> list[int]:
    command = [sys.executable, "-c", FAULTS + code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environ)
    assert ended.returncode == 0, ended.stderr
    return [int(word) for word in ended.stdout.split()]


def test_what_is_freed_stays_with_the_process():
    fresh, kept, end, grown, freed = printed("""
import ctypes
libc = ctypes.CDLL("libc.so.6")
for function in (libc.malloc, libc.sbrk):
    function.restype, function.argtypes = ctypes.c_size_t, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_size_t]
size = 2**26
print(third(size))
assert allocator.keep_freed_memory()
print(third(size))
print(libc.sbrk(0))
block = libc.malloc(5 * 2**29)  # above the threshold that an int can say; nothing touches it
print(libc.sbrk(0))
libc.free(block)
print(libc.sbrk(0))
""")
    assert kept < fresh / 4  # pages may be of 2 MiB
    assert freed == grown > end + 2**31


@pytest.mark.skipif(not allocator._large_pages(), reason="the kernel or glibc has no large pages")
def test_a_large_block_goes_back_and_is_fresh_in_large_pages():
    small, large, left, held = printed(
        """
assert allocator.keep_freed_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
print(third(2**24))
print(third(2**28))
before = resident()
block = b"x" * 2**28
held = resident() - before
del block
print(resident() - before, held)
""",
        GLIBC_TUNABLES=allocator.TUNABLES,
    )
    assert small < 100 and large < 2**28 / 4096 / 100
    assert left < 2**24 and held > 2**27


@pytest.fixture
def executed(monkeypatch):
    """What would have been started: (arguments, variables). The variables of malloc are not set before."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda path, arguments, environ: calls.append((arguments, environ)))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "-m", "the.program", "--flag"])
    monkeypatch.setattr(allocator, "_large_pages", lambda: True)
    monkeypatch.setattr(large_blocks, "library", lambda: pathlib.Path("/large-blocks-1.so"))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    return calls


def test_a_program_is_started_again_once(monkeypatch, executed):
    allocator.restart_with_large_pages("the.program")
    ((arguments, environ),) = executed
    assert arguments == [sys.executable, "-W", "error", "-m", "the.program", "--flag"]
    assert environ == os.environ | {"GLIBC_TUNABLES": allocator.TUNABLES, "LD_PRELOAD": "/large-blocks-1.so"}
    monkeypatch.setenv("GLIBC_TUNABLES", allocator.TUNABLES)
    allocator.restart_with_large_pages("the.program")
    assert len(executed) == 1 and allocator.keep_freed_memory()


def test_others_settings_that_are_not_malloc_s_are_kept(monkeypatch, executed):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=1")
    monkeypatch.setenv("LD_PRELOAD", "/another/malloc.so")
    allocator.restart_with_large_pages("the.program")
    assert executed[0][1]["GLIBC_TUNABLES"] == f"glibc.pthread.rseq=1:{allocator.TUNABLES}"
    assert executed[0][1]["LD_PRELOAD"] == "/another/malloc.so"


@pytest.mark.parametrize(
    "reason", ["another program", "variables", "tunables", "no pages", "no glibc", "an old glibc", "no Linux"]
)
def test_where_a_program_is_not_started_again(monkeypatch, tmp_path, reason):
    pages = tmp_path / ("none" if reason == "no Linux" else "enabled")
    (tmp_path / "enabled").write_text("always madvise [never]" if reason == "no pages" else "[always] madvise never")
    monkeypatch.setattr(allocator, "_LARGE_PAGES", pages)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("was started"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "the.program"])
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    if reason == "variables":
        monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    elif reason == "tunables":
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    elif reason in ("no glibc", "an old glibc"):
        monkeypatch.setattr(os, "confstr", lambda name: None if reason == "no glibc" else "glibc 2.31")
    allocator.restart_with_large_pages("jaxdist.main" if reason == "another program" else "the.program")


def test_it_goes_on_where_it_cannot_be_started_again(monkeypatch, executed, capsys):
    def refused(*_):
        raise OSError(8, "Exec format error")

    monkeypatch.setattr(os, "execve", refused)
    allocator.restart_with_large_pages("the.program")
    assert "No large pages: Python could not be started again ([Errno 8] Exec format error)." in capsys.readouterr().err


def test_somebody_s_own_settings_and_other_systems_are_left_alone(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda name: pytest.fail("was touched"))
        patch.setenv("MALLOC_ARENA_MAX", "2")
        assert not allocator.keep_freed_memory()
        patch.delenv("MALLOC_ARENA_MAX")
        patch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        assert not allocator.keep_freed_memory()
        patch.delenv("GLIBC_TUNABLES")
        patch.setattr(sys, "platform", "darwin")
        assert not allocator.keep_freed_memory()

    def no_glibc(name):
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", no_glibc)
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_"):
        monkeypatch.delenv(name, raising=False)
    assert not allocator.keep_freed_memory()
