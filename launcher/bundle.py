# SPDX-License-Identifier: Apache-2.0
"""Prepare an installed library for a quick start: `bundle.py BUILT FINAL`, run by the interpreter it is for.

Writes BUILT/modules: {name: (file, whether a package, marshalled code)} of every module, of `start` beside this
file, and of `__future__`, which each of them imports. FINAL is where BUILT will stand: it is what tracebacks
name. `make install` runs this.
"""

import __future__

import marshal
import pathlib
import sys


def main() -> None:
    """Bundle the library."""
    built, final = map(pathlib.Path, sys.argv[1:])
    modules = {}
    for path in sorted(built.rglob("*.py")):
        file = path.relative_to(built)
        package = file.name == "__init__.py"
        name = ".".join((file.parent if package else file.with_suffix("")).parts)
        modules[name] = entry(path, str(final / file), str(file), package=package)
    start = pathlib.Path(__file__).with_name("start.py")
    modules["start"] = entry(start, str(final / "start.py"), "start.py", package=False)
    future = pathlib.Path(__future__.__file__)
    modules["__future__"] = entry(future, str(future), "__future__.py", package=False)
    (built / "modules").write_bytes(marshal.dumps(modules))


def entry(path: pathlib.Path, shown: str, file: str, *, package: bool) -> tuple[str, bool, bytes]:
    """A module's entry of the bundle."""
    code = compile(path.read_bytes(), shown, "exec", dont_inherit=True)
    return file, package, marshal.dumps(code)


if __name__ == "__main__":
    main()
