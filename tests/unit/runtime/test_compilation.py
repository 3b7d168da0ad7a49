"""The compilation cache: every process writes to it, whole entries alone, and what it saved is counted.

`processes/` starts some that read it.
"""

from __future__ import annotations

import itertools
import os

import jax
import numpy as np
import pytest
from jax._src import compiler, distributed
from jax._src.lru_cache import LRUCache

from jaxdist.runtime import compilation


@pytest.fixture
def cache(tmp_path):
    """A cache of its own, empty."""
    from jax._src import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()
    compilation.enable_cache(str(tmp_path))
    yield tmp_path
    compilation_cache.reset_cache()
    compilation.enable_cache(before)


def test_every_process_writes_and_what_was_written_is_counted_as_loaded(cache, monkeypatch):
    jax.devices()  # which are made once, by the process that this one is
    monkeypatch.setattr(distributed.global_state, "process_id", 1)  # JAX lets process 0 alone write
    x = np.arange(5, dtype=np.float32)
    seen = [compilation.counts()]
    for _ in range(2):
        jax.jit(lambda x: x * 3 + 1)(x)  # another function each time
        seen.append(compilation.counts())
    assert [after["compiled"] - before["compiled"] for before, after in itertools.pairwise(seen)] == [1, 0]
    assert [after["loaded"] - before["loaded"] for before, after in itertools.pairwise(seen)] == [0, 1]
    assert list(cache.iterdir()) and distributed.global_state.process_id == 1


def test_set_up_widens_numbers_where_the_parameters_are_wide_and_off_leaves_the_cache_alone():
    before, folder = jax.config.jax_enable_x64, jax.config.jax_compilation_cache_dir
    try:
        for dtype, wide in (("float64", True), ("float32", False), ("bfloat16", False)):
            compilation.set_up("off", dtype)
            assert jax.config.jax_enable_x64 is wide
        assert jax.config.jax_compilation_cache_dir == folder
    finally:
        jax.config.update("jax_enable_x64", before)


def test_a_jax_that_hides_its_cache_is_reported(monkeypatch, caplog):
    monkeypatch.delattr(compiler, "_cache_write")
    compilation.enable_cache("")
    assert "will compile on every start" in caplog.text


def test_what_is_written_is_found_by_jax_itself(tmp_path):
    compilation._write_whole_entries()
    cache = LRUCache(str(tmp_path), max_size=-1)
    cache.put("program", b"bytes of a program")
    assert cache.get("program") == b"bytes of a program"
    cache.put("program", b"others")  # the first one stays, as JAX has it
    assert cache.get("program") == b"bytes of a program"
    (entry,) = tmp_path.iterdir()
    (tmp_path / "ordinary").touch()
    assert entry.stat().st_mode == (tmp_path / "ordinary").stat().st_mode  # others may share the folder


def test_an_entry_that_was_not_finished_is_not_found(tmp_path, monkeypatch):
    compilation._write_whole_entries()
    cache = LRUCache(str(tmp_path), max_size=-1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.put("program", b"bytes of a program")
    assert cache.get("program") is None and not list(tmp_path.iterdir())
    cache.put("program", b"bytes of a program")
    assert cache.get("program") == b"bytes of a program"
