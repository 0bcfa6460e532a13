# SPDX-License-Identifier: Apache-2.0
"""Prepare an installed library for a quick start: `bundle.py BUILT FINAL`, run by the interpreter
it is for.

Writes BUILT/code, the marshalled code of every module (and of `__future__`, which each of them
imports), and BUILT/index: the code of `start` beside this file, {name: (file, whether a package,
offset, size)}, and {name: names} of the modules that each of ENTRIES imports. FINAL is where BUILT
will stand: it is what tracebacks name. `make install` runs this.
"""

import __future__

import marshal
import pathlib
import subprocess
import sys

ENTRIES = (
    "urunc.__main__",
    *(f"urunc.cli.{verb}" for verb in ("create", "start", "state", "kill", "delete")),
    "urunc.lifecycle.create",
)
"""Modules that are imported together with all that they import: the beginning of each verb on the
path of a container's start."""
RECORD = """
import sys
from importlib.machinery import SourceFileLoader

sys.path.insert(0, sys.argv[1])
run = SourceFileLoader.exec_module


def exec_module(loader, module):
    run(loader, module)
    if module.__name__.partition(".")[0] == "urunc":
        print(module.__name__)


SourceFileLoader.exec_module = exec_module
__import__(sys.argv[2])
"""


def main() -> None:
    """Bundle the library."""
    built, final = map(pathlib.Path, sys.argv[1:])
    sources = {}
    for path in sorted(built.rglob("*.py")):
        file = path.relative_to(built)
        package = file.name == "__init__.py"
        name = ".".join((file.parent if package else file.with_suffix("")).parts)
        sources[name] = (path, str(file), package)
    sources["__future__"] = (pathlib.Path(__future__.__file__), "__future__.py", False)
    index, blob = {}, b""
    together = {name: imported_by(name, built) for name in ENTRIES}
    first = dict.fromkeys(name for names in together.values() for name in names)
    for name in dict.fromkeys((*first, *sources)):
        path, shown, package = sources[name]
        code = marshalled(path, final / shown)
        index[name] = (shown, package, len(blob), len(code))
        blob += code
    start = marshalled(pathlib.Path(__file__).with_name("start.py"), final / "start.py")
    (built / "code").write_bytes(blob)
    (built / "index").write_bytes(marshal.dumps((start, index, together)))


def imported_by(entry: str, built: pathlib.Path) -> list[str]:
    """The modules of ours that importing this one runs, in the order in which they are through."""
    command = [sys.executable, "-I", "-S", "-B", "-c", RECORD, str(built), entry]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return [name for name in answer.stdout.split() if name != entry]


def marshalled(path: pathlib.Path, shown: pathlib.Path) -> bytes:
    """A file's code, without its docstrings: they are a third of it, and nobody asks for them
    here."""
    return marshal.dumps(
        compile(path.read_bytes(), str(shown), "exec", dont_inherit=True, optimize=2)
    )


if __name__ == "__main__":
    main()
