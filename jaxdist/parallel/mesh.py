"""Devices arranged along named axes: 'data:2,model:2' is four devices, two by two.

data  model          the last axis runs fastest over the devices, and so inside a process, where exchange is cheap
0     0    device 0
0     1    device 1
1     0    device 2
1     1    device 3
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

DATA, MODEL = "data", "model"
AXES = (DATA, MODEL)


def parse(text: str, num_devices: int) -> dict[str, int]:
    """{axis: size} in order, with a `data` axis whether it is named or not; '' is all devices on `data`.

    Entries are separated by commas or blanks (schedules have commas of their own).

    Raises:
      ValueError: it cannot be read, names an axis twice or an unknown one, or does not multiply to the devices.
    """
    sizes: dict[str, int] = {}
    for part in re.split(r"[,\s]+", text.strip()) if text.strip() else ():
        found = re.fullmatch(r"(\w+):(\d+)", part)
        if found is None or int(found[2]) < 1:
            raise ValueError(f"{part!r} in {text!r} is not NAME:SIZE, as in 'data:2,model:2'")
        name = found[1]
        if name not in AXES:
            raise ValueError(f"{text!r} has an axis {name!r}; there are {' and '.join(AXES)}")
        if name in sizes:
            raise ValueError(f"{text!r} names the axis {name!r} twice")
        sizes[name] = int(found[2])
    if not sizes:
        return {DATA: num_devices}
    product = math.prod(sizes.values())
    if product != num_devices:
        words = " x ".join(map(str, sizes.values()))
        raise ValueError(f"{text!r} is {words} = {product} devices, and there are {num_devices}")
    return sizes if DATA in sizes else {DATA: 1} | sizes


def shares(num_processes: int, sizes: Mapping[str, int], axis: str = DATA) -> list[tuple[int, int]]:
    """For each process (index, count): which of `count` equal parts of what is spread over `axis` its devices hold.

    Processes hold consecutive devices, equally many each. Those that differ only along other axes hold the same part.

    Raises:
      ValueError: the parts would overlap or differ in size.
    """
    names = list(sizes)
    after = math.prod(list(sizes.values())[names.index(axis) + 1 :])
    each = math.prod(sizes.values()) // num_processes
    found = []
    for process in range(num_processes):
        held = {device // after % sizes[axis] for device in range(process * each, (process + 1) * each)}
        found.append((min(held) // len(held), sizes[axis] // len(held)))
        if held != set(range(min(held), min(held) + len(held))) or min(held) % len(held) or sizes[axis] % len(held):
            raise ValueError(f"{each} device(s) a process do not divide a mesh of {dict(sizes)} evenly")
    if len({count for _, count in found}) > 1:
        raise ValueError(f"{each} device(s) a process do not divide a mesh of {dict(sizes)} evenly")
    return found
