"""What is counted of this process's memory."""

from __future__ import annotations

import mmap

import jax
import numpy as np
import psutil
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.runtime import memory_use


def test_copies_count_on_every_device_and_shares_once():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    x = np.zeros((8, 4), np.float32)
    divided, copied = (jax.device_put(x, NamedSharding(mesh, spec)) for spec in (P("data"), P()))
    assert memory_use.bytes_here({"divided": divided}) == x.nbytes
    assert memory_use.bytes_here([divided, copied, x, 3.0]) == 5 * x.nbytes  # what is no JAX array does not count


def test_the_peak_grows_with_what_is_touched_and_stays():
    before = memory_use.peak_bytes()
    assert 10**7 < before < 10**12
    resident = psutil.Process().memory_info().rss
    pages = mmap.mmap(-1, before - resident + 64 * 10**6)  # more than was ever resident; not what malloc may have kept
    np.frombuffer(pages, np.uint8)[:: mmap.PAGESIZE] = 1
    grown = memory_use.peak_bytes()
    assert grown >= before + 32 * 10**6
    pages.close()
    assert memory_use.peak_bytes() >= grown
