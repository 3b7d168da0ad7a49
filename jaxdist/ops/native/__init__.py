"""Native kernels: C++ for the operations that XLA's CPU backend is slow at, called from its programs (`jax.ffi`).

    compiler.py      what the library is made of; compiled once for a version and a user; build.py is its command
    library.py       loads it, says why not
    convolution.py, dropout.py, normalization.py    the operations, as functions of arrays
    source/          C++17 with AVX2 or AVX-512, chosen when it runs

Nothing needs them: without a compiler everything works, slower. `jaxdist.ops.backend` decides whether they are used.
"""
