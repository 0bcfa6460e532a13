# SPDX-License-Identifier: Apache-2.0
"""The documentation's links lead somewhere and to every page, what it names of the tests is there,
and each decision has a number of its own."""

from __future__ import annotations

import fnmatch
import pathlib
import re
import shutil
import subprocess

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = [*PROJECT.glob("*.md"), *sorted((PROJECT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"\btest_[\w*]+")
CASE = re.compile(r"\b(\w+/test_\w+)::(test_\w+)")
HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: pathlib.Path) -> set[str]:
    """What a heading is linked by, as GitHub and its kin make it of the heading's text."""
    found = set()
    for heading in HEADING.findall(without_code(page.read_text())):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links(page: pathlib.Path) -> None:
    broken = []
    for link in LINK.findall(without_code(page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached() -> None:
    """By links, from README.md on."""
    reached, left = set(), [PROJECT / "README.md"]
    while left:
        page = left.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in LINK.findall(without_code(page.read_text())):
            target = (page.parent / link.partition("#")[0]).resolve()
            left += [target] if target.suffix == ".md" and "://" not in link else []
    assert [page for page in PAGES if page not in reached] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_the_tests_that_it_names(page: pathlib.Path) -> None:
    """`guest/test_network`, also without the directory, and for several `test_node_*`; one test
    alone as `guest/test_network::test_guest_answers`."""
    text = page.read_text()
    files = {path.stem for path in (PROJECT / "tests").rglob("test_*.py")}
    named = TEST.findall(CASE.sub("", text))
    missing = [name for name in named if not fnmatch.filter(files, name)]
    for file, test in CASE.findall(text):
        path = PROJECT / f"tests/{file}.py"
        if not path.exists() or f"\ndef {test}(" not in path.read_text():
            missing.append(f"{file}::{test}")
    assert missing == []


def test_decisions() -> None:
    pages = sorted((PROJECT / "docs/decisions").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        title = HEADING.findall(page.read_text())[0]
        assert title.startswith(f"{int(page.name[:4])}. "), page.name


def test_map() -> None:
    """HACKING.md's map has each directory of the project, and no other (`make tables` writes the
    rooms of src/urunc)."""
    if not (shutil.which("git") and (PROJECT / ".git").exists()):
        pytest.skip("needs git, and a clone")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    there = {path.partition("/")[0] for path in tracked if "/" in path}
    section = (PROJECT / "HACKING.md").read_text().partition("Around the package:")[2]
    named = re.findall(r"^\| `([^`/]+)/` \|", section, re.MULTILINE)
    assert sorted([*named, "src"]) == sorted(name for name in there if not name.startswith("."))
