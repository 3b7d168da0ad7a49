"""Streams whose reader goes away: written to without an error. Real processes are in `processes/test_main.py`."""

from __future__ import annotations

import io
import logging

from jaxdist.runtime.standard_streams import _Lenient


class Gone(io.StringIO):
    """Nobody reads it."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        raise OSError


def test_a_stream_without_reader_takes_everything(caplog):
    stream = _Lenient(Gone(), "stderr")
    with caplog.at_level(logging.WARNING):
        assert stream.write("one") == 3 and stream.write("two") == 3
        stream.flush()
    assert caplog.text.count("Nobody reads this process's stderr any more") == 1
    assert not stream.isatty()


def test_a_good_stream_is_passed_on():
    below = io.StringIO()
    stream = _Lenient(below, "stdout")
    print("a line", file=stream, flush=True)
    assert below.getvalue() == "a line\n" and stream.getvalue() == "a line\n"
