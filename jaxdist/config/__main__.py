"""`python -m jaxdist.config`: every key of the configuration, its default and its meaning."""

from __future__ import annotations

from jaxdist.config.defaults import all_knobs


def describe() -> str:
    """One line a key, as '--config.KEY=DEFAULT   meaning [choices]'."""
    lines = []
    for knob in all_knobs().values():
        choices = ", ".join(choice or "''" for choice in knob.known_choices()) + (", module:function" * knob.dotted)
        value = "unset" if knob.unset else repr(knob.default)
        lines.append(f"{f'{knob.key}={value}':48} {knob.meaning}{f' [{choices}]' if choices else ''}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
