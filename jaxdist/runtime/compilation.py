"""The persistent compilation cache, for every process, and a count of what it saved."""

from __future__ import annotations

import collections
import functools
import logging
import os
import pathlib
import uuid
from typing import Any

import jax
import jaxlib

_EMITTERS = "xla_cpu_use_fusion_emitters"
_JAXLIB_WITH_EMITTERS = "0.10."
_events: collections.Counter[str] = collections.Counter()


def set_up(folder: str, dtype: str) -> None:
    """What every process does before it computes: 64-bit numbers if `dtype` needs them, and `enable_cache`."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    enable_cache(folder)


def enable_cache(folder: str) -> None:
    """Keeps compiled programs in `folder` (default $JAX_COMPILATION_CACHE_DIR, then ~/.cache/jaxdist/compilation).

    'off' disables it.
    """
    if not _events:
        jax.monitoring.register_event_listener(lambda event, **_: _events.update([event]))
        _events["listening"] += 1
    if folder == "off":
        return
    path = pathlib.Path(folder or os.environ.get("JAX_COMPILATION_CACHE_DIR") or "~/.cache/jaxdist/compilation")
    jax.config.update("jax_compilation_cache_dir", str(path.expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _write_from_every_process()
    _write_whole_entries()


def use_loop_emitters() -> None:
    """XLA's CPU backend compiles fusions by its older emitters; to be called before JAX's back ends begin.

    With native kernels what is left to XLA are short loops: these come out up to a sixth quicker on several cores, and
    compile in two thirds of the time. Hashes and random bits, which native kernels compute, take four times as long.
    Left alone where $XLA_FLAGS says which emitters, and where jaxlib is not one that is known to have the flag: XLA
    ends a process for a flag that it does not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _EMITTERS not in flags and jaxlib.__version__.startswith(_JAXLIB_WITH_EMITTERS):
        os.environ["XLA_FLAGS"] = f"{flags} --{_EMITTERS}=false".strip()


def keep_names() -> None:
    """Programs are looked up with the names of their operations, as a profile shows them. Without it, equal programs of
    other names are one entry of the cache, and what is loaded may carry names of an older version or another model."""
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)


def counts() -> dict[str, int]:
    """Programs this process needed so far: compiled here, and loaded from the cache."""
    asked, loaded = (_events[f"/jax/compilation_cache/{e}"] for e in ("compile_requests_use_cache", "cache_hits"))
    return {"compiled": asked - loaded, "loaded": loaded}


def _write_from_every_process() -> None:
    """Makes processes other than 0 write their entries too.

    JAX writes entries from process 0 alone, to spare shared file systems. On CPU the key of an entry contains the
    process's own topology, so the others would never find anything and compile on every start. JAX has no setting for
    it; this wraps the one private function that decides, and says so where a JAX version has moved it.
    """
    try:
        from jax._src import compiler, distributed

        write, state = compiler._cache_write, distributed.global_state  # type: ignore[attr-defined]
        state.process_id  # noqa: B018 - must exist
    except (ImportError, AttributeError):
        logging.warning("This JAX hides its compilation cache; processes other than 0 will compile on every start.")
        return
    if hasattr(write, "__wrapped__"):
        return

    @functools.wraps(write)
    def write_as_process_0(*args: Any, **kwargs: Any) -> Any:
        own, state.process_id = state.process_id, 0
        try:
            return write(*args, **kwargs)
        finally:
            state.process_id = own

    compiler._cache_write = write_as_process_0  # type: ignore[attr-defined]


def _write_whole_entries() -> None:
    """Makes an entry of the cache appear whole or not at all.

    JAX writes it under its name: whoever looks meanwhile reads a part, and what a killed process has begun stays, fails
    to load in every later run, and is never written again. Here it is written beside and renamed. JAX has no setting
    for it; this replaces the one private method that writes, and says so where a JAX version has moved it.
    """
    try:
        from jax._src.lru_cache import LRUCache

        put = LRUCache.put
    except (ImportError, AttributeError):
        logging.warning("This JAX hides its compilation cache; a process killed while it writes an entry spoils it.")
        return
    if hasattr(put, "__wrapped__"):
        return

    @functools.wraps(put)
    def put_whole(self: Any, key: str, value: bytes) -> None:
        if self.eviction_enabled:  # under a lock of its own, with a second file for each entry
            return put(self, key, value)
        entry = pathlib.Path(self.path) / f"{key}-cache"  # as `LRUCache.get` looks for it
        if entry.exists():
            return None
        # A name that no other process uses; with the permissions of any new file, for others who share the folder.
        beside = entry.with_name(f"{key}-{uuid.uuid4().hex}.part")
        try:
            beside.write_bytes(value)
            os.replace(beside, entry)
        finally:
            beside.unlink(missing_ok=True)  # after a failure, as on a full disk
        return None

    LRUCache.put = put_whole  # type: ignore[method-assign]
