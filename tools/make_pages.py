"""Writes what the pages take from the code: tables of configuration keys, and drawings.

python tools/make_pages.py            writes them
python tools/make_pages.py --check    says what is out of date, exit code 1; changes nothing

A page has the table of its keys between `<!-- keys -->` and `<!-- end of keys -->`. Each key is on one page: that of
the room, or of the one strategy, that declares it.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

import page_drawings

from jaxdist.config import phases
from jaxdist.config.defaults import all_knobs
from jaxdist.knobs import Knob
from jaxdist.strategies import registry

ROOT = pathlib.Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- keys -->", "<!-- end of keys -->"
_ROOMS = {  # by the key's first word
    "data": "jaxdist/data", "model": "jaxdist/models", "optim": "jaxdist/optim", "monitor": "jaxdist/runtime",
    "profile": "jaxdist/profiling", "objective": "jaxdist/task", "ops": "jaxdist/ops",
}  # fmt: skip


def room_of(knob: Knob) -> str:
    """The folder on whose page the key is explained."""
    group, _, _ = knob.key.rpartition(".")
    if knob in phases.KNOBS:
        return "jaxdist/train"
    if group == "strategy":
        specs = [spec for spec in registry.SPECS.values() if knob in spec.knobs]
        own = len(specs) == 1 and isinstance(specs[0].check, str)
        return "/".join(str(specs[0].check).split(":")[0].split(".")[:3]) if own else "jaxdist/strategies"
    return _ROOMS.get(group, "jaxdist")


def tables() -> dict[str, str]:
    """{page: its table of keys}."""
    rows: dict[str, list[str]] = {}
    for knob in all_knobs().values():
        rows.setdefault(f"{room_of(knob)}/README.md", []).append(_row(knob))
    return {page: "\n".join(["| key | default | meaning |", "|---|---|---|", *found]) for page, found in rows.items()}


def _row(knob: Knob) -> str:
    choices = [f"`{choice}`" if choice else "`''`" for choice in knob.known_choices()]
    choices += ["`package.module:function`"] * knob.dotted
    default = "unset" if knob.unset else f"`{knob.default!r}`"
    meaning = knob.meaning.replace("|", "\\|") + (f" One of {', '.join(choices)}." if choices else "")
    return f"| `{knob.key}` | {default} | {meaning} |"


def page_with(text: str, table: str) -> str:
    """The page with its table of keys.

    Raises:
      ValueError: the page does not have one pair of markers.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"it must have {BEGIN} and {END} once")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def made() -> dict[pathlib.Path, str]:
    """{file: what it must contain}.

    Raises:
      ValueError: a page lacks its markers.
    """
    files = {}
    for page, table in tables().items():
        try:
            files[ROOT / page] = page_with((ROOT / page).read_text(), table)
        except (OSError, ValueError) as e:
            raise ValueError(f"{page}: {e}") from e
    return files | {ROOT / name: text for name, text in page_drawings.all_drawings().items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say what is out of date, and change nothing")
    arguments = parser.parse_args(argv)
    stale = {path: text for path, text in made().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)} is out of date." if arguments.check else f"Wrote {path.relative_to(ROOT)}.")
        if not arguments.check:
            path.write_text(text)
    return int(bool(stale) and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
