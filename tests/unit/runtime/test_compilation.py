"""The persistent compilation cache: an entry is there whole, or not at all."""

from __future__ import annotations

import os

import pytest
from jax._src.lru_cache import LRUCache

from jaxdist.runtime import compilation


def test_what_is_written_is_found_by_jax_itself(tmp_path):
    compilation._write_whole_entries()
    cache = LRUCache(str(tmp_path), max_size=-1)
    cache.put("program", b"bytes of a program")
    assert cache.get("program") == b"bytes of a program"
    cache.put("program", b"others")  # the first one stays, as JAX has it
    assert cache.get("program") == b"bytes of a program"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_entry_that_was_not_finished_is_not_found(tmp_path, monkeypatch):
    compilation._write_whole_entries()
    cache = LRUCache(str(tmp_path), max_size=-1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.put("program", b"bytes of a program")
    assert cache.get("program") is None
    cache.put("program", b"bytes of a program")
    assert cache.get("program") == b"bytes of a program"
