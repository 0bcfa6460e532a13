# SPDX-License-Identifier: Apache-2.0
"""Prepare an installed library for a quick start: `bundle.py BUILT FINAL`, run by the interpreter
it is for.

Writes BUILT/code, the marshalled code of every module (and of `__future__`, which each of them
imports), and BUILT/index: the code of `start` beside this file, and {name: (file, whether a
package, offset, size)}. FINAL is where BUILT will stand: it is what tracebacks name. `make install`
runs this.
"""

import __future__

import marshal
import pathlib
import sys


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
    for name, (path, shown, package) in sources.items():
        code = marshalled(path, final / shown)
        index[name] = (shown, package, len(blob), len(code))
        blob += code
    start = marshalled(pathlib.Path(__file__).with_name("start.py"), final / "start.py")
    (built / "code").write_bytes(blob)
    (built / "index").write_bytes(marshal.dumps((start, index)))


def marshalled(path: pathlib.Path, shown: pathlib.Path) -> bytes:
    """A file's code, without its docstrings: they are a third of it, and nobody asks for them
    here."""
    return marshal.dumps(
        compile(path.read_bytes(), str(shown), "exec", dont_inherit=True, optimize=2)
    )


if __name__ == "__main__":
    main()
