"""What an instruction is called in a profile: its kind, its layer, its direction.

    jit(update)/transpose(jvp(dense1_layer2))/DenseLayer/conv2/cond/branch_0_fun/convolution kernel gradient/while
                |             |               |          |                       |
                backward      block           class      layer in it             kind, as `jaxdist.ops.kinds` names it

What names no kind is told by its primitive and its opcode. A fusion is one row, named by all that it contains.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jaxdist.ops import kinds
from jaxdist.runtime.program import COLLECTIVES, Instruction, Program, is_kernel_gradient

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
WRAPPERS = ("while", "call", "conditional")  # what they contain is recorded, too
ADDITION, REDUCTION, COPY, ELEMENTWISE, RANDOM = "addition", "sum over elements", "copy", "elementwise", "random bits"
NO_NAME = "no name"

_TRIVIAL = ("parameter", "constant", "broadcast", "bitcast", "reshape", "tuple", "get-tuple-element", "iota", "convert")
_MOVES = ("copy", "transpose", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "pad", "gather",
          "scatter", "reverse", "select", "copy-start", "copy-done")  # fmt: skip
HAVE_BACKWARD = (kinds.RELU, kinds.DROPOUT, kinds.POOLING, kinds.LOSS)
_OF_BACKWARD = {f"{kind} backward": kind for kind in HAVE_BACKWARD} | {
    kinds.BATCH_NORM_BACKWARD: kinds.BATCH_NORM_FORWARD
}
_FEW = 16  # one in so many elements
_SAY_THEIR_DIRECTION = {
    kinds.CONVOLUTION_FORWARD: FORWARD,
    kinds.CONVOLUTION_INPUT_GRADIENT: BACKWARD,
    kinds.CONVOLUTION_KERNEL_GRADIENT: BACKWARD,
    kinds.BATCH_NORM_FORWARD: FORWARD,
    kinds.BATCH_NORM_BACKWARD: BACKWARD,
    kinds.OPTIMIZER_UPDATE: UPDATE,
    kinds.REGULARISATION: UPDATE,
}
_OF_NO_LAYER = re.compile(r"[( ]|^(cond|while|body|scan|pjit|closed_call|checkpoint|branch_\d+_fun|shard_map|remat)$")
_BLOCK = re.compile(r"^(?:\w+\()*(?P<name>[\w.-]+)\)*$")


class Name(NamedTuple):
    """What a row is told from others by."""

    kind: str
    layer: str
    direction: str


def name_of(program: Program, instruction: str, blocks: frozenset[str]) -> Name:
    """Of what an instruction does; `blocks`: the names of the model's blocks."""
    whole = program[instruction]
    collective = [one.opcode for one in program.inside(instruction) if one.opcode.removesuffix("-start") in COLLECTIVES]
    if collective:
        return Name(collective[0].removesuffix("-start"), "", "")
    telling = [_part(program, one, blocks) for one in _telling(program, instruction)]
    telling = [part for part in telling if part.kind != NO_NAME] or [_part(program, whole, blocks)]
    telling = [part for part in telling if part.kind not in (COPY, ELEMENTWISE)] or telling
    again = {_OF_BACKWARD[part.kind] for part in telling if part.kind in _OF_BACKWARD}
    telling = [part for part in telling if part.kind not in again]  # computed again on the way back
    directions = {part.direction for part in telling if part.direction}
    layers = _unique(part.layer for part in telling if part.layer)
    return Name(
        " + ".join(_unique(part.kind for part in telling)),
        " + ".join(layers[:2]) + (f" + {len(layers) - 2} more" if len(layers) > 2 else ""),
        directions.pop() if len(directions) == 1 else "" if not directions else "both",
    )


def _telling(program: Program, instruction: str) -> list[Instruction]:
    """Of what it contains, that which takes its time: not what only moves elements beside what computes, nor what works
    on a few elements beside many, as when a channel's factor is computed again."""
    found = [one for one in program.inside(instruction) if one.opcode not in _TRIVIAL]
    found = [one for one in found if one.opcode not in _MOVES] or found
    size = {one.name: program.elements_of(one.name) for one in found}
    most = max(size.values(), default=0)
    return [one for one in found if size[one.name] * _FEW >= most]


def _unique(names) -> list[str]:  # type: ignore[no-untyped-def]
    return list(dict.fromkeys(names))


def _part(program: Program, instruction: Instruction, blocks: frozenset[str]) -> Name:
    """Of one instruction, by where it comes from."""
    op_name = program.origin_of(instruction.name)
    tokens = tokens_of(op_name)
    named = [token for token in tokens if token in kinds.KINDS]
    direction = BACKWARD if "transpose(" in op_name else FORWARD if "jvp(" in op_name else ""
    layer = layer_of(tokens, blocks)
    if not instruction.op_name and instruction.opcode in ("convolution", "dot"):  # what reads it may be something else
        named = [token for token in named if token.startswith("convolution")]
    kind = named[-1] if named else _by_opcode(instruction, direction, bool(tokens))
    direction = _SAY_THEIR_DIRECTION.get(kind, direction)
    if direction == BACKWARD and kind in HAVE_BACKWARD:
        kind += " backward"
    return Name(kind, layer, direction)


def tokens_of(op_name: str) -> list[str]:
    """The parts of an op_name; '/' inside brackets does not part."""
    found, depth, start = [], 0, 0
    for place, letter in enumerate(op_name):
        depth += (letter == "(") - (letter == ")")
        if letter == "/" and depth == 0:
            found.append(op_name[start:place])
            start = place + 1
    return [*found, op_name[start:]] if op_name else []


def layer_of(tokens: list[str], blocks: frozenset[str]) -> str:
    """'dense1_layer2/conv2': the block, and the layers in it; '' outside of all blocks."""
    for place, token in enumerate(tokens):
        block = _BLOCK.match(token)
        if block is None or block["name"] not in blocks:
            continue
        path = [block["name"]]
        rest = tokens[place + 1 : -1]
        kind = max((k for k, part in enumerate(rest) if part in kinds.KINDS), default=len(rest))
        rest = rest[:kind]  # a layer may be called as a kind is
        for part in rest[1:] if rest and rest[0][:1].isupper() else rest:  # Flax says the block's class first
            if _OF_NO_LAYER.search(part):
                break
            path.append(part)
        return "/".join(path)
    return ""


def _by_opcode(instruction: Instruction, direction: str, has_name: bool) -> str:
    opcode = instruction.opcode
    if opcode == "convolution":
        if direction != FORWARD and is_kernel_gradient(instruction):
            return kinds.CONVOLUTION_KERNEL_GRADIENT
        return kinds.CONVOLUTION_INPUT_GRADIENT if direction == BACKWARD else kinds.CONVOLUTION_FORWARD
    if opcode == "dot":
        return kinds.MATRIX_PRODUCT
    if opcode.startswith("reduce"):
        return REDUCTION
    if opcode.startswith("rng"):
        return RANDOM
    if opcode in _MOVES:
        return COPY
    if not has_name:
        return NO_NAME
    return ADDITION if opcode == "add" else ELEMENTWISE
