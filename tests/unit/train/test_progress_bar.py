"""A bar for a person at a terminal, on the chief alone; it knows where a resumed run stands."""

from __future__ import annotations

import io
import sys

import pytest

from jaxdist.train.progress_bar import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "enabled", "shown"), [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)]
)
def test_it_is_shown_on_the_chief_s_terminal(monkeypatch, stream, enabled, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    with progress_bar(enabled, total=480, done=120) as bar:
        bar.update(12)
        bar.set_postfix({"loss": "0.500"})
    written = sys.stderr.getvalue()
    assert ("132/480" in written and "loss=0.500" in written) if shown else not written
