"""The parts of a profile: what each process has written of one window, found again and checked to belong together."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.errors import UsageError
from jaxdist.profiling.files import read_profile

_PART = re.compile(r"([a-z]+)-(\d+)\.json")
_WINDOW = re.compile(r"([a-z]+)_(\d+)-(\d+)")
_ROLES = ("worker", "server")  # the order on pages; others follow
_GAP_SECONDS = 60.0  # windows of one host that lie further apart are of different runs


@dataclasses.dataclass(frozen=True)
class Part:
    """What one process has written.

    Attributes:
      about: all that PROCESS.json holds (`files.write`).
      trace: the file with its timeline; may be missing.
    """

    about: Mapping[str, Any]
    trace: pathlib.Path

    @property
    def process(self) -> str:
        return self.about["process"]

    @property
    def role(self) -> str:
        return self.process.partition("-")[0]

    @property
    def number(self) -> int:
        return int(self.process.rpartition("-")[2])

    @property
    def host(self) -> str:
        return str(self.about.get("host", ""))

    @property
    def steps(self) -> int:
        return max(self.about["steps"], 1)

    @property
    def window(self) -> str:
        """'updates 4 to 6', of the window 'updates_3-6'."""
        return in_words(self.about["window"])

    @property
    def cut(self) -> str:
        """'' or a sentence that says what of its window it lacks."""
        first, last = self.about["updates"]
        unit, start, end = _WINDOW.fullmatch(self.about["window"]).groups()  # type: ignore[union-attr]
        late = unit == "updates" and first > int(start) + max((int(end) - int(start)) // 10, 1)
        if not (late or self.about.get("cut")):
            return ""
        return f"The profile of {self.process} was cut: of the {self.window} it has the updates {first + 1} to {last}."


def in_words(window: str) -> str:
    """'updates 4 to 6' for 'updates_3-6'."""
    unit, start, end = _WINDOW.fullmatch(window).groups()  # type: ignore[union-attr]
    return f"{unit} {int(start) + 1} to {end}"


def windows_of(run: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a run's profiles in which a process has written, in order."""
    found = [(match, path) for path in (run / "profile").glob("*") if (match := _WINDOW.fullmatch(path.name))]
    written = [(m[1], int(m[2]), path) for m, path in found if any(_PART.fullmatch(p.name) for p in path.iterdir())]
    return [path for _, _, path in sorted(written)]


def read_parts(folders: Sequence[pathlib.Path]) -> list[Part]:
    """The parts of one window, workers first.

    Args:
      folders: several where hosts have run directories of their own.

    Raises:
      UsageError: there is none; one is damaged; they are of different runs, models or windows; a process has two.
    """
    found: dict[str, Part] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            if not _PART.fullmatch(path.name):
                continue
            part = read_part(path)
            if part.process in found:
                other = found[part.process].trace.parent
                raise UsageError(
                    f"{part.process} has a part in {other} and one in {folder}: name the folders of one run."
                )
            found[part.process] = part
    if not found:
        raise UsageError(f"No process has written a profile into {' or '.join(map(str, folders))}.")
    parts = sorted(found.values(), key=_order)
    _belong_together(parts)
    return parts


def read_part(path: pathlib.Path) -> Part:
    """One PROCESS.json.

    Raises:
      UsageError: it is damaged, or something else.
    """
    try:
        about = read_profile(path)
        missing = {"process", "window", "updates", "steps", "began", "ended", "step_ms", "rows"} - about.keys()
    except (ValueError, AttributeError) as e:
        raise UsageError(f"{path} cannot be read, it is damaged: {e}.") from e
    if missing:
        raise UsageError(f"{path} is no profile of a process: it lacks {', '.join(sorted(missing))}.")
    if not _WINDOW.fullmatch(str(about["window"])):
        raise UsageError(f"{path} is no profile of a process: its window is {about['window']!r}.")
    return Part(about, path.with_suffix(".trace.json.gz"))


def _order(part: Part) -> tuple[int, str, int]:
    return (_ROLES.index(part.role) if part.role in _ROLES else len(_ROLES), part.role, part.number)


def different(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """'model.depth is 40 in A and 56 in B' for each field in which both have a value and differ."""
    return [
        f"{key} is {one[key]} in {names[0]} and {other[key]} in {names[1]}"
        for key in sorted(one.keys() & other.keys())
        if one[key] != other[key]
    ]


def _belong_together(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        names = first.process, part.process
        window = different({"window": first.window}, {"window": part.window}, names)
        if window:
            raise UsageError(f"These profiles are of different windows: {window[0]}.")
        like = next(one for one in parts if one.role == part.role)
        differ = different(_of_run(first), _of_run(part), names)
        differ = differ or different(_of_run(like), _of_run(part), (like.process, part.process))
        if differ:
            raise UsageError(f"These profiles are of different runs: {'; '.join(differ)}.")
        gap = max(part.about["began"] - first.about["ended"], first.about["began"] - part.about["ended"])
        longest = max(one.about["ended"] - one.about["began"] for one in (first, part))
        if part.host == first.host and gap > max(_GAP_SECONDS, longest):
            raise UsageError(
                f"These profiles are of different runs: {gap:.0f} s lie between {names[0]}'s and {names[1]}'s; "
                "remove the older one."
            )


def _of_run(part: Part) -> dict[str, Any]:
    about = part.about
    known = {key: about[key] for key in ("run_id", "strategy") if key in about}
    if "num_processes" in about:
        known[f"number of {part.role}s"] = about["num_processes"]  # a server is told its own role's alone
    return dict(about.get("config", {})) | known
