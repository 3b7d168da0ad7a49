"""The tools are scripts, not a package: one imports them from their folder, as they import each other."""

import sys

from helpers.processes import ROOT

sys.path.append(str(ROOT / "tools"))
