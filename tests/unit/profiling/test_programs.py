"""Programs of a trace are found again, those that were loaded from the compilation cache, too."""

import jax
import jax.numpy as jnp

from jaxdist.profiling.programs import programs_of
from jaxdist.profiling.trace import read
from jaxdist.runtime import profiler


def make(shift):
    @jax.jit
    def step(x):
        with jax.named_scope(f"block{shift}"):
            return jnp.tanh(x @ x) + shift

    return step


def test_a_loaded_program_is_known_by_its_name_and_instructions(tmp_path):
    x = jnp.ones((24, 24))
    before = {key: getattr(jax.config, key) for key in ("jax_compilation_cache_dir",)}
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    try:
        for shift in (1, 2):
            make(shift)(x)  # writes the cache
        jax.clear_caches()
        loaded = [make(shift) for shift in (1, 2)]
        with profiler.tracing() as trace:
            for step in loaded:
                step(x).block_until_ready()
            trace.stop()
            seen = read(trace.path(), frozenset())
            held = profiler.programs()
    finally:
        jax.config.update("jax_compilation_cache_include_metadata_in_key", False)
        for key, value in before.items():
            jax.config.update(key, value)
    steps = {number for number, (name, _) in seen.programs.items() if name == "jit_step"}
    found = programs_of(held, seen.programs)
    assert len(steps) == 2
    blocks = []
    for number in sorted(steps):
        program = found[number]
        assert all(instruction in program for instruction in seen.programs[number][1])
        names = {one.op_name for inside in program.computations.values() for one in inside.values()}
        blocks += [block for block in ("block1", "block2") if any(block in name for name in names)]
    assert blocks == ["block1", "block2"]


def test_programs_that_are_gone_are_left_out():
    assert programs_of([], {7: ("jit_step", frozenset({"dot"}))}) == {}
