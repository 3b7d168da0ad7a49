"""What this process's cores reach at best: the rate of a large matrix product."""

from __future__ import annotations

import statistics
import time

import jax


def matrix_flops(size: int = 1536, rounds: int = 20) -> float:
    """Operations a second of a float32 matrix product [size, size] x [size, size], the median of `rounds`. Blocks, for
    about a second on two cores."""
    a = jax.numpy.ones((size, size), "float32")
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(times)
