"""A global batch is shared out in equal parts, or refused."""

from __future__ import annotations

from jaxdist.errors import UsageError


def check_divisible(global_batch_size: int, count: int, among: str) -> None:
    """`among`: words for the `count` parts, with the number, e.g. "the 5 workers".

    Raises:
      UsageError: with the arithmetic and the nearest sizes that can be shared.
    """
    whole, rest = divmod(global_batch_size, count)
    if rest:
        down, up = global_batch_size - rest, global_batch_size - rest + count
        near = f"{down} or {up}" if down else f"{up}"
        raise UsageError(
            f"global_batch_size={global_batch_size} is not divisible by {among} ({global_batch_size} = {count} x "
            f"{whole} + {rest}); nearest: {near}."
        )
