# SPDX-License-Identifier: Apache-2.0
"""Configuration as text: what the installer adds to a file, and takes out again exactly. Pure.

Files are edited as text, so that comments, order and blanks stay. Whether the result says what it
shall is asked of the engine (engine_view.py).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from urunc.installer.host import Failure

BEGIN = "# >>> urunc: made by its installer, and removed by it >>>\n"
JOINED = "# >>> urunc: made by its installer, and removed by it, with the newline before >>>\n"
MADE = "# The whole file was made by urunc's installer.\n"
END = "# <<< urunc <<<\n"
BLOCK = re.compile(f"(?:\n{re.escape(JOINED)}|{re.escape(BEGIN)}).*?{re.escape(END)}", re.DOTALL)
BASE = '{{ template "base" . }}\n'
"""What k3s's and RKE2's template begins with: their own."""
IMPORTS = re.compile(r"^[ \t]*imports[ \t]*=[ \t]*\[", re.MULTILINE)
HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)


def block(content: str) -> str:
    """Lines between the installer's marks (BEGIN, END), which `without_block` finds."""
    return f"{BEGIN}{content.rstrip()}\n{END}"


def made(content: str) -> str:
    """The text of a file that was not there before: a block that begins with MADE."""
    return block(MADE + content)


def with_block(text: str, content: str) -> str:
    """A file's text with a block at its end; that it had no line feed at its end is noted there
    (JOINED)."""
    if text and not text.endswith("\n"):
        return f"{text}\n{JOINED}{content.rstrip()}\n{END}"
    return text + block(content)


def without_block(text: str) -> str:
    """A file's text without the block, to the byte what `with_block` was given."""
    return BLOCK.sub("", text)


def is_made(text: str, rest: str) -> bool:
    """Whether there was no file, if this is its text, and `rest` the same without what was added:
    nobody has added anything since."""
    return MADE in text and rest.strip() in ("", BASE.strip())


def parse(text: str, path: str) -> dict[str, Any]:
    """A TOML text's content; raises Failure, with the path, where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"{path}: not TOML: {error}") from error


def imports_of(text: str, path: str) -> list[str]:
    """The patterns of the key `imports` of a configuration of containerd's; raises Failure."""
    found = parse(text, path).get("imports", [])
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def with_import(text: str, path: str, added: str) -> str:
    """A configuration that imports one more file."""
    entry = json.dumps(added)
    before = imports_of(text, path)
    head = HEADER.search(text)
    place = IMPORTS.search(text, 0, head.start() if head else len(text))
    if place:
        text = f"{text[: place.end()]}{entry}, {text[place.end() :]}"
    else:
        text = block(f"imports = [{entry}]") + text
    if imports_of(text, path) != [added, *before]:
        raise Failure(f"{path}: cannot add an import: please add {entry} to its imports")
    return text


def without_import(text: str, added: str) -> str:
    """The same without it."""
    return without_block(text).replace(f"{json.dumps(added)}, ", "", 1)


def set_imports(text: str, path: str, imports: list[str]) -> str:
    """A copy of the file to ask the engine about, with these imports in place of its own."""
    parse(text, path)
    head = HEADER.search(text)
    place = IMPORTS.search(text, 0, head.start() if head else len(text))
    rest = text
    if place:
        end = next(
            stop + 1
            for stop in range(place.end(), len(text))
            if text[stop] == "]" and _is_array(text[place.start() : stop + 1])
        )
        rest = text[: place.start()] + text[end:]
    return f"imports = {json.dumps(imports)}\n{rest}"


def _is_array(piece: str) -> bool:
    try:
        tomllib.loads(piece)
    except tomllib.TOMLDecodeError:
        return False
    return True


def key(name: str) -> str:
    """A TOML key, quoted where it has to be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def table(path: tuple[str, ...], values: Mapping[str, Any]) -> str:
    """A TOML table with its own values, then the tables in it."""
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    lines = [f"[{'.'.join(map(key, path))}]"]
    lines += [f"  {key(name)} = {json.dumps(value)}" for name, value in plain.items()]
    text = "\n".join(lines) + "\n"
    for name, value in values.items():
        if isinstance(value, dict) and value:
            text += table((*path, name), value)
    return text
