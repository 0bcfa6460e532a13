# SPDX-License-Identifier: Apache-2.0
"""Prepare an installed library for a quick start: `bundle.py BUILT FINAL`, run by the interpreter it is for.

Writes BUILT/modules (every module's code, marshalled) and BUILT/start.pyc. FINAL is where BUILT will stand: it
is what tracebacks name. `make install` runs this.
"""

import importlib.util
import marshal
import pathlib
import py_compile
import sys


def main() -> None:
    """Bundle the library."""
    built, final = map(pathlib.Path, sys.argv[1:])
    modules = {}
    for path in sorted(built.rglob("*.py")):
        file = path.relative_to(built)
        package = file.name == "__init__.py"
        name = ".".join((file.parent if package else file.with_suffix("")).parts)
        code = compile(path.read_bytes(), str(final / file), "exec", dont_inherit=True)
        modules[name] = (str(file), package, marshal.dumps(code))
    (built / "modules").write_bytes(marshal.dumps(modules))
    start = pathlib.Path(__file__).with_name("start.py")
    py_compile.compile(
        str(start),
        cfile=str(built / "start.pyc"),
        dfile=str(final / "start.py"),
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    assert importlib.util.MAGIC_NUMBER == (built / "start.pyc").read_bytes()[:4]


if __name__ == "__main__":
    main()
