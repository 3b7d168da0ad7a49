"""A model's layout as bytes: what the messages carry, so that both ends know what their buffers contain."""

from __future__ import annotations

from collections.abc import Iterable

from jaxdist.parallel.flat_layout import Layout, Tensor
from jaxdist.ps import parameter_server_pb2 as pb


def layout_header(layout: Layout) -> bytes:
    """A layout, serialised: equal layouts have equal headers.

    It walks over all tensors: who needs it with every message (`Client`, `Shard`) makes it once for its layout.
    """
    message = pb.Layout(params=map(_message, layout.params), stats=map(_message, layout.stats))
    return message.SerializeToString(deterministic=True)


def layout_from_header(header: bytes) -> Layout:
    """The inverse of `layout_header`.

    Raises:
      ValueError: these bytes are no layout.
    """
    try:
        message = pb.Layout.FromString(header)
    except Exception as e:
        raise ValueError(f"the header cannot be read: {e}") from None
    return Layout(_tensors(message.params), _tensors(message.stats))


def _message(tensor: Tensor) -> pb.Tensor:
    return pb.Tensor(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype)


def _tensors(messages: Iterable[pb.Tensor]) -> tuple[Tensor, ...]:
    return tuple(Tensor(t.name, tuple(t.shape), t.dtype) for t in messages)
