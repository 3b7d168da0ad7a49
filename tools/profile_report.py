"""Makes one profile out of what the processes of a run have written: tables, a trace and a page.

    python tools/profile_report.py DIR [DIR ...]

DIR is the run directory of a run with profile.updates or profile.at_epochs; several where hosts have run directories of
their own. A run does this itself when it ends, with what is in the run directory of process 0: this is for the others,
and for a run that was killed. Everything is written into the first DIR that has the window: profile/updates_FROM-TO/
index.html (the page), all.trace.json.gz (for ui.perfetto.dev), summary.md, .csv and .json.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterable, Sequence

from run_reader import path_of

from jaxdist.errors import UsageError
from jaxdist.profiling.merge import merge, write
from jaxdist.profiling.parts import windows_of


def windows(folders: Sequence[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    """{'updates_10-30': its folder in each run directory}.

    Raises:
      UsageError: a run directory has no profile, or none that another has.
    """
    found: dict[str, list[pathlib.Path]] = {}
    for folder in folders:
        own = windows_of(folder)
        if not own:
            raise UsageError(
                f"{folder} has no profile (profile/*/PROCESS.json): it is no run directory, or was not "
                "profiled; set profile.updates or profile.at_epochs."
            )
        if found and not found.keys() & {path.name for path in own}:
            raise UsageError(
                f"{folder} has profiles of other windows ({_names(p.name for p in own)}) than the directories before "
                f"it ({_names(found)}): name those of one run."
            )
        for path in own:
            found.setdefault(path.name, []).append(path)
    return found


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=path_of, metavar="DIR")
    options = parser.parse_args(argv)
    try:
        for paths in windows(options.runs).values():
            merged = merge(paths)
            page = write(merged, paths[0])
            steps = ", ".join(f"{p.process} {p.about['step_ms']:.1f} ms" for p in merged.parts)
            print(f"{page}: {steps} a step.", *merged.notes, sep="\n  ")
    except (UsageError, OSError) as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
