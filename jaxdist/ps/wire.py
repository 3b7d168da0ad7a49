"""Messages with bulk data, written and read without passing the data through the protocol buffer library.

The library copies a bytes field when it is set, when it is serialised, when it is parsed and when it is read. A field
is a tag, a length and the bytes, so `data`, kept last, can be appended to the rest of the message and cut off again.
What results is an ordinary message that any implementation reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import xxhash
from google.protobuf.message import Message

_DATA_FIELD = 15
_TAG = _DATA_FIELD << 3 | 2  # length-delimited; below 128, so one byte
CHUNK = 4 * 2**20  # bytes of data in one message, at most
MAX_MESSAGE = CHUNK + 4 * 2**20  # with a header of many thousand tensors

M = TypeVar("M", bound=Message)


def checksum(data: Any, claim: int = 0) -> int:
    """XXH3-64 of a buffer, or of a list of them end to end, seeded with the claim that it belongs to: data under
    another claim's number are noticed."""
    if not isinstance(data, list):
        return xxhash.xxh3_64_intdigest(data, claim)
    state = xxhash.xxh3_64(seed=claim)
    for part in data:
        state.update(part)
    return state.intdigest()


def chunks(data: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(offset, part) of a buffer of bytes, each part as large as one message takes; one empty part of nothing."""
    for offset in range(0, max(len(data), 1), CHUNK):
        yield offset, data[offset : offset + CHUNK]


class Arriving:
    """A buffer of `total` bytes whose chunks come in any order, and may come twice."""

    def __init__(self, total: int) -> None:
        self.buffer = bytearray(total)
        self._missing = set(range(0, max(total, 1), CHUNK))

    @staticmethod
    def fits(offset: int, total: int, data: memoryview) -> bool:
        """Whether these bytes are the chunk at `offset` of `total`."""
        return offset % CHUNK == 0 and len(data) == min(CHUNK, total - offset)

    def add(self, offset: int, data: memoryview) -> None:
        self.buffer[offset : offset + len(data)] = data
        self._missing.discard(offset)

    @property
    def whole(self) -> bool:
        return not self._missing


def encode(message: Message, data: Any = b"") -> bytes:
    """The serialised message with `data` (a contiguous buffer, or a list of them, end to end) as its last field."""
    views = [memoryview(part).cast("B") for part in (data if isinstance(data, list) else [data]) if len(part)]
    size = sum(map(len, views))
    if not size:
        return message.SerializeToString()
    return b"".join((message.SerializeToString(), bytes((_TAG,)), _varint(size), *views))


def decode(kind: type[M], payload: bytes) -> tuple[M, memoryview]:
    """(message without its data, the data as a view of `payload`).

    Raises:
      ValueError: the bytes are no such message.
    """
    try:
        at = _find_data(payload)
        if at is None:
            return kind.FromString(payload), memoryview(b"")
        length, start = _read_varint(payload, at + 1)
        if start + length != len(payload):
            raise ValueError("data is not the last field, or is cut short")
        return kind.FromString(payload[:at]), memoryview(payload)[start:]
    except IndexError:
        raise ValueError("the message is cut short") from None
    except Exception as e:
        raise ValueError(f"the message cannot be read: {e}") from None


def _find_data(payload: bytes) -> int | None:
    """Where the data field begins: walks over the fields before it."""
    at, end = 0, len(payload)
    while at < end:
        tag, after = _read_varint(payload, at)
        if tag == _TAG:
            return at
        match tag & 7:
            case 0:
                _, at = _read_varint(payload, after)
            case 1:
                at = after + 8
            case 2:
                length, start = _read_varint(payload, after)
                at = start + length
            case 5:
                at = after + 4
            case _:
                raise ValueError(f"wire type {tag & 7}")
    return None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(payload: bytes, at: int) -> tuple[int, int]:
    """(value, position after it)."""
    value = shift = 0
    while True:
        byte = payload[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than 10 bytes")
