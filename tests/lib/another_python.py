# SPDX-License-Identifier: Apache-2.0
"""Other Pythons than the one that urunc was installed for, and an installation that meets one."""

from __future__ import annotations

import glob
import marshal
import os
import pathlib
import shutil
import subprocess
import sys

from lib.support import URUNC

ASK = "import sys, importlib.util as u; print(sys.version_info >= (3, 11), u.MAGIC_NUMBER.hex())"
PLACES = ("/usr/bin/python3.1[1-9]", "/usr/local/bin/python3.1[1-9]",
          os.path.expanduser("~/.pyenv/versions/*/bin/python3.1[1-9]"))  # fmt: skip
SHIM = "containerd-shim-urunc-v2"
OTHER = b"none"
"""The magic number of no Python."""


def pythons() -> dict[str, str]:
    """Magic number → interpreter, of those of this machine that will do, this one's first."""
    found: dict[str, str] = {}
    for path in (sys.executable, *(path for place in PLACES for path in sorted(glob.glob(place)))):
        answer = subprocess.run([path, "-ISc", ASK], capture_output=True, text=True)
        words = answer.stdout.split()
        if words[:1] == ["True"]:
            found.setdefault(words[1], os.path.realpath(path))
    return found


def another() -> str:
    """The last of them: where there is only this one, this one."""
    return list(pythons().values())[-1]


def moved(directory: pathlib.Path, *, other: bool = True) -> pathlib.Path:
    """The script `launch` of a copy of the installed library, which no Python is the right one for
    (or without `other`, the usual one)."""
    (installed,) = (URUNC.parent.parent / "lib/urunc").glob("[0-9]*")
    library = directory / "library"
    shutil.copytree(installed, library)
    for name in ("launch", SHIM):
        script = library / name
        script.write_text(script.read_text().replace(str(installed), str(library)))
    if other:
        spoil(library)
    return library / "launch"


def spoil(library: pathlib.Path) -> None:
    """Have a library's code be another Python's, as where the interpreter has been replaced."""
    _, *rest = marshal.loads((library / "index").read_bytes())
    whole = library / "index.new"
    whole.write_bytes(marshal.dumps((OTHER, *rest), 2))
    whole.rename(library / "index")
