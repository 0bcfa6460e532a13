# SPDX-License-Identifier: Apache-2.0
"""Install the door: `door.py BUILT TARGET LAUNCHER` writes a copy of a compiled program (door/)
that hands over to the script at LAUNCHER. `make install` runs this."""

import pathlib
import sys

MARK = b"urunc-launcher:"
ROOM = 1024
"""Bytes behind the mark, filled up with NUL (`launcher` in door/launcher.c)."""


def main() -> None:
    """Copy it, with the path in its place."""
    built, target, launcher = sys.argv[1:]
    content = pathlib.Path(built).read_bytes()
    place = content.index(MARK) + len(MARK)
    path = launcher.encode()
    if len(path) >= ROOM:
        raise SystemExit(f"{launcher}: a path of more than {ROOM - 1} bytes")
    filled = path + bytes(ROOM - len(path))
    pathlib.Path(target).write_bytes(content[:place] + filled + content[place + ROOM :])


if __name__ == "__main__":
    main()
