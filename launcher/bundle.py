# SPDX-License-Identifier: Apache-2.0
"""Prepare an installed library for a quick start: `bundle.py [BUILT FINAL]`, run by the interpreter
it is for.

Writes BUILT/code.TAG.DIGEST (TAG is the interpreter's), the marshalled code of every module (and of
`__future__`, which each of them imports), and BUILT/index: the interpreter's magic number, the code
of `start` beside this file, the name of the code's file, {name: (file, whether a package, offset,
size)} (of a module in C the file alone), and {name: (names, offset, size)} of the modules that each
of ENTRIES imports, with their code and its own in one piece. FINAL is where BUILT will stand: it is
what tracebacks name. `make install` runs this.

It also puts itself into BUILT/launcher. There it is run without words when the machine's Python has
become another (another.py): processes of the one before still have their own code.
"""

import __future__

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import marshal
import os
import pathlib
import shutil
import sys
import types
from collections.abc import Iterator, Sequence

VERBS = ("create", "start", "state", "kill", "delete")
NETWORKS = tuple(f"urunc.net.{name}" for name in ("look", "connect", "share", "pod"))
SHIM = tuple(f"urunc.shim.{name}" for name in ("command", "standby", "attendance"))
ENTRIES = (
    "urunc.__main__",
    *(f"urunc.cli.{verb}" for verb in VERBS),
    "urunc.lifecycle.create",
    *NETWORKS,
    *SHIM,
)
"""Modules that are imported together with all that they import: the beginning of each verb on the
path of a container's start, and of the shim."""

INDEX_BYTES = 1 << 16
"""How much of the index urunc.in reads."""

ALSO = {
    "urunc.cli.create": ("urunc.config",),
    "urunc.lifecycle.create": ("urunc.lifecycle.recipe",),
    SHIM[-1]: tuple(
        f"urunc.shim.{name}" for name in ("calls", "loop", "publisher", "service", "verbs")
    ),
}
"""What is not imported with them, but always soon after."""

CREATE = ("urunc.__main__", "urunc.cli.create", "urunc.lifecycle.create")
AFTER = {
    "urunc.lifecycle.create": CREATE[:2],
    **dict.fromkeys(NETWORKS, CREATE),
    **{name: SHIM[:place] for place, name in enumerate(SHIM)},
    **{f"urunc.cli.{verb}": ("urunc.__main__",) for verb in VERBS},
}
"""Which of ENTRIES are there before another one: its piece has the rest alone."""


class Source:
    """A module: its file, the same below BUILT, whether it is a package, and its code,
    marshalled."""

    def __init__(self, path: pathlib.Path, shown: str, final: pathlib.Path) -> None:
        self.path, self.shown = path, shown
        self.package = path.name == "__init__.py"
        self.compiled = compiled(path, final / shown)
        self.code = marshal.dumps(self.compiled)


class Recorder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An importer of these modules, whose code is there; `done` gets the names of those that are
    through."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self.sources = sources
        self.done: list[str] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's spec, None for what is not ours."""
        source = self.sources.get(name)
        if source is None:
            return None
        spec = importlib.machinery.ModuleSpec(
            name, self, origin=str(source.path), is_package=source.package
        )
        if source.package:  # where the compiled module is found
            spec.submodule_search_locations = [str(source.path.parent)]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Let the import system make it."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module's code."""
        exec(marshal.loads(self.sources[module.__name__].code), module.__dict__)
        self.done.append(module.__name__)


def main() -> None:
    """Bundle the library."""
    here = pathlib.Path(__file__).resolve().parent
    built, final = map(pathlib.Path, sys.argv[1:] or (here.parent, here.parent))
    if here != built / "launcher":
        (built / "launcher").mkdir(exist_ok=True)
        for name in ("another.py", "bundle.py", "start.py"):
            shutil.copy(here / name, built / "launcher")
    sources = {}
    for path in sorted((built / "urunc").rglob("*.py")):
        file = path.relative_to(built)
        name = ".".join((file.parent if path.name == "__init__.py" else file.with_suffix("")).parts)
        sources[name] = Source(path, str(file), final)
    together = {name: imported_by(name, sources) for name in ENTRIES}
    future = pathlib.Path(__future__.__file__)
    sources["__future__"] = Source(future, "__future__.py", final)
    index, blob = {}, b""
    first = dict.fromkeys(name for names in together.values() for name in names)
    for name in dict.fromkeys((*first, *sources)):
        source = sources[name]
        index[name] = (source.shown, source.package, len(blob), len(source.code))
        blob += source.code
    index |= {name: (file, False, 0, 0) for name, file in in_c(built)}
    pieces: dict[str, tuple[list[str], int, int]] = {}
    for entry, names in together.items():
        there = {name for before in AFTER.get(entry, ()) for name in (*together[before], before)}
        rest = [name for name in names if name not in there]
        # one object: what its modules have in common is read once
        piece = marshal.dumps(tuple(sources[name].compiled for name in (*rest, entry)))
        pieces[entry] = (rest, len(blob), len(piece))
        blob += piece
    start = marshal.dumps(compiled(here / "start.py", final / "launcher/start.py"))
    # who has read an index before another one took its place has its own code, or none
    code = f"code.{sys.implementation.cache_tag}.{hashlib.sha256(blob).hexdigest()[:12]}"
    replace(built / code, blob)
    magic = importlib.util.MAGIC_NUMBER
    # version 2: what every Python 3 can read
    facts = marshal.dumps((magic, start, code, index, pieces), 2)
    if len(facts) > INDEX_BYTES:
        raise SystemExit(f"the index has {len(facts)} bytes, of which urunc.in reads {INDEX_BYTES}")
    replace(built / "index", facts)


def in_c(built: pathlib.Path) -> Iterator[tuple[str, str]]:
    """The modules in C that each of these verbs has, with their files: ours by its path below
    BUILT, and the scanner of JSON where it is not within the interpreter."""
    yield from (
        ("urunc.linux._linux", str(path.relative_to(built)))
        for path in built.glob("urunc/linux/_linux.*so")
    )
    scanner = importlib.util.find_spec("_json")
    if scanner and scanner.has_location and scanner.origin:
        yield "_json", scanner.origin


def replace(path: pathlib.Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def imported_by(entry: str, sources: dict[str, Source]) -> list[str]:
    """The modules of ours that importing this one and its ALSO runs, in the order in which they are
    through: in a process that has imported none of them, a child of this one."""
    ours, its = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            recorder = Recorder(sources)
            sys.meta_path.insert(0, recorder)
            for name in (entry, *ALSO.get(entry, ())):
                importlib.import_module(name)
            os.write(its, " ".join(recorder.done).encode())
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    os.close(its)
    with open(ours) as file:
        names = file.read().split()
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"cannot import {entry}")
    return [name for name in names if name != entry]


def compiled(path: pathlib.Path, shown: pathlib.Path) -> types.CodeType:
    """A file's code, without its docstrings: they are a third of it, and nobody asks for them
    here."""
    return compile(path.read_bytes(), str(shown), "exec", dont_inherit=True, optimize=2)


if __name__ == "__main__":
    main()
