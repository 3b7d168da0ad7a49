"""The layers' arithmetic, fast on CPUs: same numbers as the plain operations, to rounding.

XLA's CPU backend is quick at matrix products, at convolutions with 32 and more output channels, and at elementwise
loops that it fuses little. What autodiff writes for a convolutional network is none of these: kernel gradients become
convolutions over transposed images, chains of residual sums are fused into each of their consumers and computed again
there. The operations here state their derivatives in the shapes that are quick, and end each in `materialize`, beyond
which XLA does not fuse.

Which formulation is used is decided when a program is lowered: `platforms.choose` gives CPUs the one of this package
and other platforms the plain one; no flag, and parameters and checkpoints are the same. Programs that XLA itself
partitions (`jit` over several devices, traced with their mesh set) also get the plain one, since loops over parts of a
batch cannot be partitioned. In `shard_map` use `check_vma=False`. Only reverse-mode derivatives are there.
"""

from jaxdist.ops.convolution import conv as conv
from jaxdist.ops.dropout import dropout as dropout
from jaxdist.ops.dropout import mix32 as mix32
from jaxdist.ops.kinds import kind as kind
from jaxdist.ops.normalization import batch_norm as batch_norm
from jaxdist.ops.normalization import normalize as normalize
from jaxdist.ops.platforms import materialize as materialize
from jaxdist.ops.pooling import average_pool as average_pool
from jaxdist.ops.pooling import max_pool as max_pool
from jaxdist.ops.relu import relu as relu
