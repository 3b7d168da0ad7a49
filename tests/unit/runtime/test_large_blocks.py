"""The library in front of malloc: in processes of their own, which load it before everything else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.processes import ROOT

from jaxdist.runtime import large_blocks

PROGRAM = """
import ctypes, errno, random, resource
c = ctypes.CDLL(None, use_errno=True)
for name in ("malloc", "aligned_alloc", "memalign", "valloc", "calloc", "realloc"):
    getattr(c, name).restype = ctypes.c_void_p
c.malloc.argtypes = c.valloc.argtypes = [ctypes.c_size_t]
c.aligned_alloc.argtypes = c.memalign.argtypes = c.calloc.argtypes = [ctypes.c_size_t] * 2
c.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
c.free.argtypes = c.malloc_usable_size.argtypes = [ctypes.c_void_p]
c.malloc_usable_size.restype = ctypes.c_size_t
c.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
MIB = 2**20
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def used(size):  # a block that comes, is filled and goes
    block = c.malloc(size)
    ctypes.memset(block, 1, size)
    c.free(block)
    return block
"""


@pytest.fixture(scope="module")
def library():
    found = large_blocks.library()
    if found is None:
        pytest.skip("no C++ compiler is there")
    return found


def run(library, code):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM + code], capture_output=True, text=True, timeout=120, cwd=ROOT,
        env=os.environ | {"LD_PRELOAD": str(library)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_a_block_that_has_been_freed_is_there_for_the_next_request(library):
    printed = run(
        library,
        """
first = used(64 * MIB)
before = faults()
for size in (64, 40, 33):
    assert used(size * MIB) == first
print(faults() - before)
before = resident()
assert used(100 * MIB) and used(100 * MIB)  # the kept block is too short: it goes back first
print(round((resident() - before) / MIB))
small = c.malloc(45 * MIB)  # a block more than twice as long is not taken for it
print(c.malloc_usable_size(small) // MIB)
""",
    )
    assert int(printed[0]) < 20 and 30 < int(printed[1]) < 45 and int(printed[2]) == 46


def test_no_more_is_kept_than_was_in_use(library):
    (checked,) = run(
        library,
        """
a, b = c.malloc(200 * MIB), c.malloc(100 * MIB)
c.free(a), c.free(b)
before = resident()
sizes = (201, 300, 150, 290, 33)
for size in sizes:
    block = c.malloc(size * MIB)
    ctypes.memset(block, 1, size * MIB)
    held = resident() - before
    c.free(block)
    assert (size - 10) * MIB < held < 320 * MIB, (size, held)
    assert resident() - before < 320 * MIB, (size, resident() - before)
print(len(sizes))
""",
    )
    assert checked == "5"


def test_the_family_keeps_what_is_written_whatever_the_size(library):
    run(
        library,
        """
rng = random.Random(0)
held = {}
for number in range(400):
    size = rng.choice([1, 4096, MIB, 31 * MIB, 32 * MIB, 33 * MIB + 17, 70 * MIB])
    kind = rng.randrange(6)
    if kind == 0:
        block = c.malloc(size)
    elif kind == 1:
        block = c.calloc(size, 1)
        assert ctypes.string_at(block, min(size, 4096)) == bytes(min(size, 4096))
        assert ctypes.string_at(block + size - 1, 1) == b"\\0"
    elif kind == 2:
        block = c.aligned_alloc(64, size)
        assert block % 64 == 0
    elif kind == 3:
        block = c.memalign(4 * MIB, size)
        assert block % (4 * MIB) == 0
    elif kind == 4:
        made = ctypes.c_void_p()
        assert c.posix_memalign(ctypes.byref(made), 128, size) == 0
        block = made.value
        assert block % 128 == 0
    else:
        block = c.valloc(size)
        assert block % 4096 == 0
    assert c.malloc_usable_size(block) >= size
    mark = number % 251
    ctypes.memset(block, mark, 1), ctypes.memset(block + size - 1, mark, 1)
    assert block not in held
    held[block] = size, mark
    if len(held) > 6:
        old = rng.choice(list(held))
        size, mark = held.pop(old)
        assert ctypes.string_at(old, 1)[0] == mark == ctypes.string_at(old + size - 1, 1)[0]
        if rng.random() < 0.5:
            new = rng.choice([1, 2 * MIB, 34 * MIB, 80 * MIB])
            moved = c.realloc(old, new)
            assert ctypes.string_at(moved, 1)[0] == mark
            assert new < size or size == 1 or ctypes.string_at(moved + size - 1, 1)[0] == mark
            old = moved
        c.free(old)
assert c.realloc(c.malloc(64 * MIB), 0) is None
c.free(None)
assert c.posix_memalign(ctypes.byref(made), 3, 64 * MIB) == errno.EINVAL
assert c.malloc(2**62) is None and ctypes.get_errno() == errno.ENOMEM
""",
    )


def test_threads_and_forks(library):
    (total,) = run(
        library,
        """
import os, threading
def work(mark):
    for number in range(60):
        size = (33 + (number * 7 + mark) % 40) * MIB
        block = c.malloc(size)
        ctypes.memset(block, mark, 64)
        assert ctypes.string_at(block, 64) == bytes([mark]) * 64
        c.free(block)
threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
for thread in threads:
    thread.start()
ends = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        work(9)
        os._exit(0)
    ends.append(os.waitpid(child, 0)[1])
for thread in threads:
    thread.join()
print(sum(ends))
""",
    )
    assert total == "0"


def test_one_that_cannot_be_loaded_is_not_asked_for(library, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXDIST_NATIVE_DIR", str(tmp_path))
    (tmp_path / library.name).write_text("of another kind of processor")
    assert large_blocks.library() is None


def test_where_memory_ends_what_is_kept_is_given_back_first(library):
    (held,) = run(
        library,
        """
used(400 * MIB)
with open("/proc/self/statm") as statm:
    now = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 300 * MIB, now + 300 * MIB))
block = c.malloc(600 * MIB)  # of glibc, which has place for it without the 400
assert block
print(c.malloc_usable_size(block) // MIB)
""",
    )
    assert held == "600"


def test_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXDIST_NATIVE_DIR", str(tmp_path / "a [folder]"))  # a space would end the variable's name
    assert large_blocks.library() is None
    monkeypatch.setenv("JAXDIST_NATIVE_DIR", str(tmp_path / "one"))
    monkeypatch.setenv("CXX", "g++ '")
    assert large_blocks.library() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert large_blocks.library() is None
    (tmp_path / "a file").touch()
    monkeypatch.setenv("JAXDIST_NATIVE_DIR", str(tmp_path / "a file" / "one"))
    assert large_blocks.library() is None
    monkeypatch.delenv("JAXDIST_NATIVE_DIR")
    monkeypatch.setattr(large_blocks.pathlib.Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError()))
    assert large_blocks.library() is None  # nobody's home
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert not large_blocks.preloaded()
    monkeypatch.setenv("LD_PRELOAD", "/somewhere/other.so:/a/large-blocks-1.so")
    assert large_blocks.preloaded()
