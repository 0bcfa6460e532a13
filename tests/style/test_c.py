# SPDX-License-Identifier: Apache-2.0
"""C: gcc's analyzer finds nothing, files and functions are short, and the parts of guest-init know
of each other what the table says."""

from __future__ import annotations

import pathlib
import platform
import re
import shutil
import subprocess
import sysconfig

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
GUEST_INIT = PROJECT / "guest-init"
FILES = sorted(
    path
    for top in ("door", "guest-init", "guests-src", "src")
    for path in (PROJECT / top).rglob("*.[ch]")
    if "build" not in path.relative_to(PROJECT).parts
)
STRICT = ("-Wall", "-Wextra", "-Werror", "-fanalyzer")
# How each directory is compiled, as its Makefile has it.
HOW: dict[str, tuple[str, ...]] = {
    "door": ("-std=gnu11", "-Os"),
    "guest-init": ("-std=gnu11", "-Os"),
    "src/urunc/linux": ("-O2", "-fPIC", f"-I{sysconfig.get_path('include')}"),
    "guests-src/kv": ("-std=gnu11", "-Os"),
    "guests-src/linux": ("-Os",),
    "guests-src/probe": (
        *("-std=gnu11", "-O2", "-ffreestanding", "-mgeneral-regs-only", "-mno-red-zone"),
        *("-fno-pic", "-DSOLO5_TARGET=SOLO5_TARGET_HVT", '-DBLOCK_NAME="b"', '-DNET_NAME="n"'),
    ),
    "guests-src/solo5-double": ("-std=c11", "-O2", "-DTENDER_HVT"),
}
INTEL_ONLY = {"guests-src/probe", "guests-src/solo5-double"}

# guest-init: which file calls functions, or reads variables, of which others; all may call those of
# messages.c, which calls nobody's (what ends after a failure is handed in by main.c).
CALLS = {
    "again": "config groups kernel mounts network",
    "application": "config credentials groups mounts paths streams",
    "archive": "config kernel",
    "attach": "paths",
    "channel": "again application config groups streams transport",
    "config": "kernel",
    "credentials": "config",
    "end": "channel config held kernel returned streams",
    "groups": "config kernel",
    "held": "",
    "kernel": "",
    "main": "again application channel config end groups kernel memory mounts network returned "
    "root streams",
    "memory": "channel",
    "messages": "",
    "mounts": "attach config groups held kernel options paths root tmpfs",
    "network": "config kernel",
    "options": "",
    "paths": "",
    "returned": "config",
    "root": "archive config held kernel options paths",
    "streams": "attach config kernel paths transport",
    "tmpfs": "attach paths",
    "transport": "config kernel",
}


def without_comments(text: str) -> str:
    """And without the contents of strings."""
    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"'
    return re.sub(pattern, lambda found: '""' if found[0][0] == '"' else " ", text, flags=re.S)


@pytest.mark.parametrize("directory", HOW)
def test_analyzer(directory: str, tmp_path: pathlib.Path) -> None:
    if directory in INTEL_ONLY and platform.machine() != "x86_64":
        pytest.skip("the guests of the tests are x86_64 only")
    compiler = shutil.which("gcc")
    assert compiler, "there is no gcc"
    files = sorted((PROJECT / directory).glob("*.c"))
    assert files
    done = [
        subprocess.run(
            [compiler, *HOW[directory], *STRICT, "-c", str(file), "-o", str(tmp_path / "part.o")],
            capture_output=True,
            text=True,
            check=False,
        )
        for file in files
    ]
    assert [answer.stderr for answer in done if answer.returncode] == []


def test_every_directory_is_analyzed() -> None:
    found = {str(path.parent.relative_to(PROJECT)) for path in FILES if path.suffix == ".c"}
    assert found == set(HOW)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_length(path: pathlib.Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 500
    start = 0
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start:
            assert number - start <= 60, f"line {start}: a function of {number - start + 2} lines"


def declared() -> dict[str, str]:
    """What init.h declares for all -> the file that it says it is in."""
    found: dict[str, str] = {}
    file = ""
    for section in re.split(r"^(?=/\* \w+\.c\b)", (GUEST_INIT / "init.h").read_text(), flags=re.M):
        opening = re.match(r"/\* (\w+)\.c\b", section)
        if opening is None:
            continue
        file = opening[1]
        code = without_comments(section).replace("__attribute__((format", "")
        names = re.findall(r"^(?:[\w ]+[ *]+)(\w+)\(", code, flags=re.M)
        names += re.findall(r"^extern [\w ]+[ *]+(\w+);", code, flags=re.M)
        found |= dict.fromkeys(names, file)
    return found


def test_calls_within_guest_init() -> None:
    owners = declared()
    assert owners["fail"] == "messages" and owners["root"] == "paths" and len(owners) > 60
    seen = {}
    for file in sorted(GUEST_INIT.glob("*.c")):
        code = without_comments(file.read_text())
        if '#include ""' not in code:
            continue  # the supervisor stands alone
        # without an underscore a name may also be a local one's: a call is followed by a bracket
        words = re.findall(r"(?<![.>])\b(?:[a-z]+(?=\()|[a-z]+_\w+|root\b)", code)
        used = {owners[word] for word in words if word in owners}
        seen[file.stem] = " ".join(sorted(used - {file.stem, "messages"}))
    assert seen == CALLS


def test_no_circles_in_guest_init() -> None:
    left = {name: set(others.split()) for name, others in CALLS.items()}
    while left:
        free = {name for name, others in left.items() if not others & set(left)}
        assert free, f"these call each other in a circle, or those that do: {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in free}
