"""`tools/growing_files.py`: each whole line once, of files that grow or are begun anew."""

from __future__ import annotations

import pytest
from growing_files import GrowingFiles


def test_a_line_is_read_once_when_it_is_whole(tmp_path):
    path, files = tmp_path / "log", GrowingFiles()
    assert files.new_lines(path) == []
    path.write_text("one\ntwo\nthr")
    assert files.new_lines(path) == ["one", "two"]
    with open(path, "a") as file:
        file.write("ee\n")
    assert files.new_lines(path) == ["three"] and files.new_lines(path) == []
    path.write_text("four\n")  # begun anew
    assert files.new_lines(path) == ["four"] and files.restarts == 1
    (tmp_path / "new").write_text("five\nsix\nseven\n")
    (tmp_path / "new").replace(path)  # another file, and a longer one
    assert files.new_lines(path) == ["five", "six", "seven"] and files.restarts == 2
    assert files.new_lines(path) == []
    with pytest.raises(OSError):
        files.new_lines(tmp_path)  # it is there, and no file


def test_files_that_grow_are_read_on_from_where_they_ended(tmp_path):
    path, files = tmp_path / "rows.jsonl", GrowingFiles()
    assert files.all_rows(path) == []
    path.write_text('{"a": 1}\n{"a": ')
    assert files.all_rows(path) == [{"a": 1}]
    path.write_text('{"a": 7}\n{"a": 2}\nbroken\n[]\n{"a": 3}\n')
    assert files.all_rows(path) == [{"a": 1}, {"a": 2}, {"a": 3}]  # the first line is not read again
    (tmp_path / "other").write_text('{"b": 1}\n')
    assert files.all_rows(tmp_path / "other") == [{"b": 1}] and len(files.all_rows(path)) == 3
    path.write_text('{"a": 9}\n')
    assert files.all_rows(path) == [{"a": 9}] and files.restarts == 1
