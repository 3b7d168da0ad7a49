"""What a link between a host and the others does to frames: '100mbit,5ms,0.1%'."""

from __future__ import annotations

import dataclasses
import re

_RATES = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclasses.dataclass(frozen=True)
class Link:
    """Each way.

    Attributes:
      rate: bits a second; 0: as fast as it goes.
      delay: seconds, one way: a round trip between two hosts passes four of them.
      loss: share of frames that are lost.
    """

    rate: float = 0.0
    delay: float = 0.0
    loss: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Link:
        """From 'RATE[,DELAY[,LOSS]]', as in '100mbit,5ms,0.1%'; '' and 'free' are a link that does nothing.

        Raises:
          ValueError: it cannot be read; says what it may be.
        """
        rate, delay, loss, *more = [*text.split(","), "", ""]
        if len(more) > 2:
            raise ValueError(f"{text!r} has more than a rate, a delay and a loss")
        return cls(_number("" if rate == "free" else rate, _RATES), _number(delay, _TIMES), _share(loss))

    @property
    def only_rate(self) -> bool:
        """Whether the kernel's own shaper is enough."""
        return not (self.delay or self.loss)

    def __str__(self) -> str:
        rate = next((f"{self.rate / of:g}{unit}" for unit, of in reversed(_RATES.items()) if self.rate >= of), "free")
        parts = [rate, f"{1000 * self.delay:g}ms" if self.delay else "", f"{100 * self.loss:g}%" if self.loss else ""]
        return ",".join(parts).rstrip(",")


def _number(text: str, units: dict[str, float]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", text.strip().lower())
    if not text.strip():
        return 0.0
    if found is None or found[2] not in units:
        raise ValueError(f"{text!r} is not a number with one of the units {', '.join(units)}")
    return float(found[1]) * units[found[2]]


def _share(text: str) -> float:
    if not text.strip():
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if found is None or float(found[1]) > 100:
        raise ValueError(f"{text!r} is not a loss, such as 0.1%")
    return float(found[1]) / 100
