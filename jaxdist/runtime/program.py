"""A compiled program as text, taken apart: which instruction does what, for which layer, with how many bytes.

    %fusion.3 = f32[26,24,24,64]{3,2,1,0} fusion(%a, %b), kind=kLoop, calls=%fused_computation.3, metadata={op_name=...}
    |           |                         |      |                         |                             |
    name        shape                     opcode operands                  what it contains      where it comes from

A trace names instructions; this says what they are.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")

_HEADER = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\(.*?\)|\S+) (?P<opcode>[\w-]+)\((?P<rest>.*)$"
)
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
_SHAPE = re.compile(r"(pred|bf16|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_OPERAND = re.compile(r"%([\w.-]+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_GROUPS = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_WINDOW = re.compile(r"window=\{size=([\dx]+)")
_NATIVE_CONVOLUTION = re.compile(r'custom_call_target="jaxdist_convolve(|_input_gradient|_kernel_gradient)_\d+"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      shapes: (dtype, dims) of its result, several for a tuple.
      operands: names, in the same computation.
      op_name: where it comes from, as JAX says; '' where XLA has made it up.
      arguments: what stands between its brackets.
      called: the computations that it runs: a fusion's, a loop's body.
      attributes: the rest of the line.
    """

    name: str
    opcode: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    operands: tuple[str, ...]
    op_name: str
    arguments: str
    called: tuple[str, ...]
    attributes: str

    @property
    def dims(self) -> tuple[int, ...]:
        """Of its result; () of a tuple."""
        return self.shapes[0][1] if len(self.shapes) == 1 else ()

    @property
    def bytes(self) -> int:
        return sum(_bytes(dtype) * math.prod(dims) for dtype, dims in self.shapes)


class Program:
    """The instructions of a program by computation; names of instructions are unique in all of it."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = dict(_computations(text))
        self._read_by: dict[str, dict[str, list[str]]] = {}
        self._where = {name: c for c, inside in self.computations.items() for name in inside}

    @property
    def size(self) -> int:
        """Instructions in all."""
        return len(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __getitem__(self, name: str) -> Instruction:
        return self.computations[self._where[name]][name]

    def siblings(self, name: str) -> Mapping[str, Instruction]:
        """The instructions of the same computation."""
        return self.computations[self._where[name]]

    def inside(self, name: str) -> Iterator[Instruction]:
        """What an instruction does: itself, or what a fusion, a call or a loop contains, in the order of the text."""
        instruction = self[name]
        if not instruction.called:
            yield instruction
        for called in instruction.called:
            for inner in self.computations.get(called, {}):
                yield from self.inside(inner)

    def origin_of(self, name: str) -> str:
        """Where an instruction comes from: its own op_name, or, where XLA has left none, that of what reads it first,
        or of what it reads."""
        instruction, siblings = self[name], self.siblings(name)
        if instruction.op_name:
            return instruction.op_name
        by_reader = self._of_reader(self._where[name], name, 3)
        read = [siblings[o].op_name for o in instruction.operands if o in siblings]
        return by_reader or next((op_name for op_name in read if "/" in op_name), "")

    def _of_reader(self, computation: str, name: str, depth: int) -> str:
        """The op_name of the only instruction that reads one; inside a fusion, of what reads it there."""
        readers = self._readers(computation).get(name, ())
        if len(readers) != 1 or not depth:
            return ""
        reader = self.computations[computation][readers[0]]
        if reader.opcode == "fusion" and name in reader.operands:
            number = str(reader.operands.index(name))
            inside = self.computations.get(reader.called[0], {})
            for one in inside.values():
                if one.opcode == "parameter" and one.arguments == number:
                    return self._of_reader(reader.called[0], one.name, depth) or reader.op_name
        return reader.op_name or self._of_reader(computation, reader.name, depth - 1)

    def _readers(self, computation: str) -> dict[str, list[str]]:
        if computation in self._read_by:
            return self._read_by[computation]
        found = self._read_by[computation] = {}
        for one in self.computations[computation].values():
            for operand in one.operands:
                found.setdefault(operand, []).append(one.name)
        return found

    def bytes_of(self, name: str) -> int:
        """What one run of it reads and writes, each operand and the result once."""
        siblings, instruction = self.siblings(name), self[name]
        return instruction.bytes + sum(siblings[o].bytes for o in instruction.operands if o in siblings)

    def elements_of(self, name: str) -> int:
        """Of the largest array that it reads or writes."""
        siblings, instruction = self.siblings(name), self[name]
        arrays = [instruction, *(siblings[o] for o in instruction.operands if o in siblings)]
        return max((math.prod(dims) for one in arrays for _, dims in one.shapes), default=0)

    def flops_of(self, name: str) -> float:
        """Of matrix products and convolutions in one run of it, two for each multiplication; others count as 0."""
        return sum(self._flops(one) for one in self.inside(name))

    def _flops(self, instruction: Instruction) -> float:
        native = _NATIVE_CONVOLUTION.search(instruction.attributes) if instruction.opcode == "custom-call" else None
        if (instruction.opcode not in ("dot", "convolution") and not native) or len(instruction.operands) < 2:
            return 0.0
        siblings = self.siblings(instruction.name)
        left, right = (siblings[o].dims if o in siblings else () for o in instruction.operands[:2])
        if native:
            y, kernel = {
                "": (instruction.dims, right), "_input_gradient": (left, right),
                "_kernel_gradient": (right, instruction.dims),
            }[native[1]]  # fmt: skip
            return 2.0 * math.prod(y[:-1]) * math.prod(kernel)
        size = math.prod(instruction.dims)
        if instruction.opcode == "dot":
            found = _CONTRACTED.search(instruction.attributes)
            contracted = [int(d) for d in found[1].split(",") if d] if found else []
            return 2.0 * size * math.prod(left[d] for d in contracted if d < len(left))
        labels = _LABELS.search(instruction.attributes)
        outputs = right[labels[2].index("o")] if labels and len(labels[2]) == len(right) else 1
        return 2.0 * size * math.prod(right) / max(outputs, 1)


def is_kernel_gradient(instruction: Instruction) -> bool:
    """Whether a convolution of the way back is that by the kernel.

    One image is convolved by the other: the window is as large as an image, and the result as small as a kernel.
    """
    window, labels = _WINDOW.search(instruction.attributes), _LABELS.search(instruction.attributes)
    if window is None or labels is None:
        return False
    sizes = [int(size) for size in window[1].split("x")]
    result = [instruction.dims[labels[3].index(str(d))] for d in range(len(sizes))]
    return any(size > out for size, out in zip(sizes, result, strict=True))


def replica_groups(instruction: Instruction) -> list[list[int]]:
    """Which devices exchange with each other in a collective, as '{{0,1},{2,3}}' or '[2,2]<=[2,2]T(1,0)' says; [] where
    all do."""
    if found := _GROUPS.search(instruction.attributes):
        return [[int(d) for d in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]
    if found := _IOTA_GROUPS.search(instruction.attributes):
        shape, dims, order = ([int(d) for d in text.split(",")] if text else [] for text in found.groups())
        numbers = np.arange(math.prod(dims)).reshape(dims)
        return (numbers.transpose(order) if order else numbers).reshape(shape).tolist()
    return []


def _computations(text: str) -> Iterator[tuple[str, dict[str, Instruction]]]:
    name = ""
    inside: dict[str, Instruction] = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, inside = header["name"], {}
        elif line == "}" and name:
            yield name, inside
            name = ""
        elif name and (found := _INSTRUCTION.match(line)):
            arguments, attributes = _split(found["rest"])
            op_name = _OP_NAME.search(attributes)
            inside[found["name"]] = Instruction(
                found["name"],
                found["opcode"],
                tuple((kind, tuple(int(d) for d in dims.split(",") if d)) for kind, _, dims in
                      _SHAPE.findall(found["shape"])),
                tuple(_OPERAND.findall(arguments)),
                op_name[1] if op_name else "",
                arguments,
                tuple(_CALLED.findall(attributes)) if found["opcode"] in _CALLING else (),
                attributes,
            )  # fmt: skip


# A reduction's function is not run as a computation of its own.
_CALLING = ("fusion", "call", "while", "conditional", "async-start")


def _split(rest: str) -> tuple[str, str]:
    """(operands, attributes) of what follows an opcode's opening bracket."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:place], rest[place + 1 :]
    return rest, ""


def _bytes(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return 1 if dtype == "pred" else max(int(bits[0]) // 8, 1) if bits else 1
