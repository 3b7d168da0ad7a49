"""`tools/make_pages.py` with `page_drawings.py`, and what holds for every page.

Their commands are run by `processes/test_page_commands.py`.
"""

from __future__ import annotations

import collections
import re

import make_pages
import pytest
from helpers import pages
from helpers.processes import ROOT

from jaxdist.config.defaults import all_knobs

PAGES = pages.pages()
RESULTS = "experiments/results/"
ROOMS = [f"{room}/README.md" for room in ("jaxdist", "experiments", "tools", "tests")]


def test_no_page_is_long():
    lines = {page: len(pages.text_of(page).splitlines()) for page in PAGES}
    assert lines["README.md"] <= 150
    assert {page: n for page, n in lines.items() if n > 250} == {}
    wide = [
        (page, number)
        for page in PAGES
        for number, line in enumerate(pages.text_of(page).splitlines(), 1)
        if len(line) > 200 and not line.startswith("|")
    ]
    assert wide == []


@pytest.mark.parametrize("page", PAGES)
def test_links_and_tests_exist(page):
    for target in pages.links(page):
        path, fragment = pages.resolved(page, target)
        assert path.exists(), target
        if fragment:
            assert fragment in pages.anchors(str(path.resolve().relative_to(ROOT))), target
    for path, function in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", pages.text_of(page)):
        assert (ROOT / path).exists(), path
        assert not function or re.search(rf"^def {function}\b", (ROOT / path).read_text(), flags=re.M), (path, function)


def test_every_room_has_a_page_that_another_page_links_to():
    linked = {
        str(pages.resolved(page, target)[0].resolve().relative_to(ROOT))
        for page in PAGES
        for target in pages.links(page)
        if pages.resolved(page, target)[0].resolve().is_relative_to(ROOT)
    }
    assert set(ROOMS) <= set(PAGES)
    assert {page for page in PAGES if page != "README.md" and "comparison" not in page} <= linked


def test_each_key_is_explained_on_one_page_and_tables_and_drawings_are_as_made():
    stale = [str(path.relative_to(ROOT)) for path, text in make_pages.made().items() if path.read_text() != text]
    assert stale == [], "python tools/make_pages.py writes them"
    explained = collections.defaultdict(set)  # by rows of the tables, and by tables of the values of one key
    for page in PAGES:
        for key in re.findall(r"^\| `([a-z_.]+)` \|", pages.text_of(page), flags=re.M):
            explained[key].add(page)
    assert {key: explained[key] for key in all_knobs() if len(explained[key]) != 1} == {}


def test_blocks_say_what_they_are():
    """So that each is run, or is no command."""
    unknown = [b for page in PAGES for b in pages.blocks(page) if b.language not in ("sh", "bash", "python", "text")]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_take_hours_have_flags_and_keys_that_exist(page):
    """Those of text blocks are not run: they are for several hosts, or measure for long."""
    sources = {path.stem: path.read_text() for path in (ROOT / "tools").glob("*.py")}
    sources["bench"] = "".join(text for name, text in sources.items() if name.startswith("bench"))
    main = (ROOT / "jaxdist" / "main.py").read_text()
    for command in pages.commands(page, "text"):
        for key in re.findall(r"--config\.([\w.]+)=", command):
            assert key in all_knobs() or ".options." in key, command
        for path in re.findall(r"\bexperiments/\w+\.py", command):
            assert (ROOT / path).exists(), command
        tool = re.search(r"\bpython tools/(\w+)\.py", command)
        if tool or "python -m jaxdist.main" in command:
            text = (sources[tool.group(1)] if tool else "") + main
            for flag in re.findall(r"(?<= )--(\w+)(?==| |$)", command):
                assert re.search(rf'"(--)?{flag}"', text), (flag, command)


def test_a_page_is_made_anew(capsys, monkeypatch, tmp_path):
    page, picture = tmp_path / "README.md", tmp_path / "a.svg"
    monkeypatch.setattr(make_pages, "ROOT", tmp_path)
    monkeypatch.setattr(make_pages, "made", lambda: {page: "new", picture: "<svg/>"})
    page.write_text("old")
    assert make_pages.main(["--check"]) == 1
    assert page.read_text() == "old" and "README.md is out of date." in capsys.readouterr().out
    assert make_pages.main([]) == 0 and page.read_text() == "new" and picture.exists()
    assert make_pages.main(["--check"]) == 0
    assert make_pages.page_with("a <!-- keys -->b<!-- end of keys --> c", "T") == (
        "a <!-- keys -->\n\nT\n\n<!-- end of keys --> c"
    )
    with pytest.raises(ValueError, match="once"):
        make_pages.page_with("a", "T")
