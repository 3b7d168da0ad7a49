"""The project's pages: Markdown files, their links and their blocks of code."""

from __future__ import annotations

import dataclasses
import pathlib
import re

from helpers.processes import ROOT


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines without comments, as a shell reads them; those that end with a backslash are joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(command.split()) for line in lines if (command := re.sub(r"(^|\s+)#.*", "", line).strip())]


def pages() -> list[str]:
    """Their paths from the project's root; not what tools, environments and runs have left there."""
    rooms = ("jaxdist", "experiments", "tools", "tests")
    found = [path for room in rooms for path in (ROOT / room).rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *found])


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), flags=re.S | re.M)
    return [Block(page, language, text) for language, text in found]


def commands(page: str, *languages: str) -> list[str]:
    """Those of its shell blocks."""
    shell = [block for block in blocks(page) if block.language in (languages or ("sh", "bash"))]
    return [command for block in shell for command in block.commands]


def links(page: str) -> list[str]:
    """Targets of its links and pictures that are not on the web."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.S | re.M)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in target]


def anchors(page: str) -> set[str]:
    """The fragments that links to it may have, one for each heading."""
    headings = re.findall(r"^#+ +(.+)$", text_of(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def resolved(page: str, target: str) -> tuple[pathlib.Path, str]:
    """(file, fragment) of a link."""
    path, _, fragment = target.partition("#")
    return (ROOT / page).parent / path if path else ROOT / page, fragment
