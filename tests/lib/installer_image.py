# SPDX-License-Identifier: Apache-2.0
"""The installer's image as deploy/Containerfile makes it, from this machine's files in place of
Debian's image: the same tree in /opt/urunc, a Python, a shell, nsenter and chroot."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import tempfile

from lib.images import archive
from lib.support import PROJECT

NAME = "urunc-installer"
PROGRAMS = ("/bin/sh", "/usr/bin/env", "/usr/bin/nsenter", "/usr/sbin/chroot")
UNUSED = {"test", "idlelib", "ensurepip", "lib2to3", "tkinter", "pydoc_data", "__pycache__",
          "dist-packages", "sitecustomize.py"}  # fmt: skip
Files = dict[str, pathlib.Path | bytes | str]


def installer_image(directory: pathlib.Path) -> pathlib.Path:
    """Its archive, with what is built of urunc now."""
    with tempfile.TemporaryDirectory() as staged:
        install = ["make", "--no-print-directory", "-C", str(PROJECT), "install"]
        words = [*install, "PREFIX=/opt/urunc/prefix", f"DESTDIR={staged}"]
        subprocess.run(words, check=True, capture_output=True)
        prefix = pathlib.Path(staged, "opt/urunc/prefix")
        files = _tree(prefix, "opt/urunc/prefix") | _python()
        for name in ("deploy", "launcher"):
            files |= _tree(PROJECT / name, f"opt/urunc/{name}")
        for program in PROGRAMS:
            files |= _program(program)
        files |= {
            "etc/passwd": b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
            "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
        }
        settings = {"WorkingDir": "/opt/urunc", "Entrypoint": ["/opt/urunc/deploy/install"]}
        return archive(directory / f"{NAME}.tar", NAME, files, [], settings=settings)


def _tree(source: pathlib.Path, target: str) -> Files:
    """A directory's files, but for compiled ones."""
    found: Files = {}
    for path, directories, names in os.walk(source):
        directories[:] = [name for name in directories if name not in UNUSED]
        for name in set(names) - UNUSED:
            here = pathlib.Path(path, name)
            place = f"{target}/{here.relative_to(source)}"
            found[place] = os.readlink(here) if here.is_symlink() else here
    return found


def _program(path: str) -> Files:
    """A program and its libraries; each name is that of a real file."""
    found: Files = {path.lstrip("/"): pathlib.Path(os.path.realpath(path))}
    said = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", said):
        found[library.lstrip("/")] = pathlib.Path(os.path.realpath(library))
    return found


def _python() -> Files:
    """The system's Python: its standard library and the libraries of its modules."""
    asked = "import os, sys; print(os.path.realpath(sys.executable), os.path.dirname(os.__file__))"
    ask = ["/usr/bin/python3", "-Ic", asked]
    program, library = subprocess.run(
        ask, check=True, capture_output=True, text=True
    ).stdout.split()
    found = _program(program) | _tree(pathlib.Path(library), library.lstrip("/"))
    for module in pathlib.Path(library, "lib-dynload").glob("*.so"):
        if module.name.startswith(("_ssl", "_hashlib", "_ctypes", "zlib", "_bz2", "_lzma")):
            found |= _program(str(module))
    return found | {"usr/bin/python3": os.path.basename(program)}
