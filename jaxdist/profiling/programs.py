"""Which of a process's programs a trace speaks of.

A trace names a program by a number. That is the module's own number where the program was compiled in this process;
where it was loaded from the compilation cache, the trace has the number of the process that compiled it, and the module
a new one. Then the module's name and the instructions that ran must tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.runtime.program import Program


def programs_of(modules: Sequence[Any], seen: Mapping[int, tuple[str, frozenset[str]]]) -> dict[int, Program]:
    """{program id of the trace: program}; ids of programs that are gone are left out.

    Args:
      modules: HLO modules that the process holds.
      seen: `Trace.programs`.
    """
    wanted = {name for name, _ in seen.values()}
    held = [
        (_module_id(module.as_serialized_hlo_module_proto()), module.name, Program(module.to_string()))
        for module in modules
        if module.name in wanted
    ]
    held.sort(key=lambda one: one[0])
    found: dict[int, Program] = {}
    taken: set[int] = set()
    for number, (name, ran) in sorted(seen.items()):
        fitting = [one for one in held if one[1] == name and all(instruction in one[2] for instruction in ran)]
        if not fitting:
            continue
        # Its own number; else the one of which most has run; of equal ones the next, as they were made in that order.
        best = min(fitting, key=lambda one: (one[0] != number, one[2].size - len(ran), one[0] in taken))
        taken.add(best[0])
        found[number] = best[2]
    return found


def _module_id(proto: bytes) -> int:
    """Field 5 of an HloModuleProto: the module's number, which its text does not say."""
    place = 0
    while place < len(proto):
        key, place = _varint(proto, place)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(proto, place)
            if field == 5:
                return value
        elif kind == 2:
            length, place = _varint(proto, place)
            place += length
        else:
            place += 8 if kind == 1 else 4
    return -1


def _varint(proto: bytes, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = proto[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
