# SPDX-License-Identifier: Apache-2.0
"""urunc's own files on the node: a directory for each version, and the programs in PREFIX/bin.

A directory is never changed once it has its name: another build of a version gets a directory with
a digest in its name. So a shim that runs keeps its code, whatever is installed beside it; the
launchers, by which the next one starts, are replaced by rename. The code is bundled by and for the
interpreter that the node will run it with.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import shutil
from dataclasses import dataclass

import urunc
from urunc.installer.host import DIRECTORIES, Failure, Host

SHIM = "containerd-shim-urunc-v2"
SCRIPTS = ("launch", SHIM)
"""What the compiled programs hand over to, in the directory: `urunc` and the shim."""
DOOR = re.compile(rb"(?<=urunc-launcher:)(/[^\0]*/lib/urunc/([^/\0]+))/([^/\0]+)\0+")
"""In a program: where its script is (launcher/door.py)."""
PYTHON = re.compile(r"^#!(?=\S+ -ISXutf8)\S+")
"""A script's interpreter."""
PYTHONS = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
ASK = (
    "import sys, os, importlib.util as u;"
    "print(os.path.realpath(sys.executable), *sys.version_info[:2], u.MAGIC_NUMBER.hex())"
)
LEAST = (3, 11)
WHEEL = "prefix"
"""The directory in a wheel's package that has what a PREFIX has but the modules (setup.py)."""
PROGRAMS = ("guest-init", "supervisor", "urunc-door")


@dataclass
class Source:
    """What there is to install: a PREFIX that `make install` made, and the launcher's sources."""

    prefix: pathlib.Path
    launcher: pathlib.Path | None = None
    """None: as it was installed."""
    python: pathlib.Path | None = None
    """A relocatable interpreter, for nodes without one."""

    def __post_init__(self) -> None:
        self.programs: dict[str, bytes] = {}
        self.version = ""
        directory = self.prefix / "bin"
        if not directory.is_dir():
            raise Failure(f"{self.prefix}: nothing to install (make install PREFIX=… first)")
        for file in sorted(directory.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                self.programs[file.name] = file.read_bytes()
        found = DOOR.search(self.programs.get("urunc", b""))
        if not found:
            raise Failure(f"{directory}/urunc: not an installed urunc")
        self.modules, self.version = pathlib.Path(found[1].decode()), found[2].decode()
        self.is_home = self.modules.parents[2] == self.prefix.resolve()
        """Whether it was installed there, to stay, and not staged with DESTDIR, packed or moved."""
        here = self.prefix / "lib/urunc" / self.version
        if not self.is_home and here.is_dir():
            self.modules = here
        self.package = self.modules / "urunc"
        if not self.package.is_dir():  # of a wheel
            self.package = self.prefix.parent

    @property
    def tools(self) -> pathlib.Path:
        """The directory of the launcher's sources."""
        return self.launcher or self.modules / "launcher"

    @property
    def scripts(self) -> dict[str, str]:
        """The scripts that run Python, as they were installed."""
        return {name: (self.modules / name).read_text() for name in SCRIPTS}

    @property
    def has_shim(self) -> bool:
        return SHIM in self.programs

    def files(self) -> dict[str, pathlib.Path]:
        """The modules, the compiled one, and the programs beside them, by their paths in a
        version's directory."""
        found = {
            f"urunc/{file.relative_to(self.package)}": file
            for file in self.package.rglob("*")
            if file.suffix in (".py", ".so") and WHEEL not in file.relative_to(self.package).parts
        }
        for name in PROGRAMS:  # a wheel has what its own modules run in the package
            for directory in (self.modules, self.package):
                if (directory / name).exists():
                    found[name] = directory / name
        return dict(sorted(found.items()))


def own() -> Source:
    """The urunc that runs: below the PREFIX where it is installed, or in a wheel; raises Failure
    where it is neither."""
    package = pathlib.Path(urunc.__path__[0])
    if (package.parent / SCRIPTS[0]).exists():
        prefix = package.parents[3]
        python = prefix.parent / "python"  # of a tarball
        return Source(prefix, python=python if python.is_dir() else None)
    if (package / WHEEL).is_dir():
        return Source(package / WHEEL)
    raise Failure(f"{package}: not installed (make install)")


def home(source: Source) -> str:
    """The PREFIX to choose for a source where none is named: its own, if it is one."""
    return str(source.prefix) if source.is_home else "/usr/local"


@dataclass
class Interpreter:
    """A Python of the node's."""

    path: str
    magic: str
    brought: bool = False


def interpreter(host: Host, source: Source, library: str) -> Interpreter:
    """The node's first Python that is new enough (LEAST), or the one that is brought along; raises
    Failure where there is neither."""
    for directory in DIRECTORIES:
        for name in PYTHONS:
            path = host.program(name, directories=(directory,))
            said = host.run(path, "-ISc", ASK, check=False).stdout.split() if path else []
            if len(said) == 4 and (int(said[1]), int(said[2])) >= LEAST:
                return Interpreter(said[0], said[3])
    if source.python and (source.python / "bin/python3").exists():
        return Interpreter(f"{library}/python/bin/python3", "brought", brought=True)
    raise Failure(
        "the node has no Python 3.11 or newer, and none was brought along: "
        "please install one, or use the installer's image"
    )


@dataclass
class Program:
    """What is to be on the node; `files` are the programs in PREFIX/bin, `scripts` are to be in the
    directory."""

    directory: str
    new: bool
    interpreter: Interpreter
    scripts: dict[str, str]
    files: dict[str, bytes]
    digest: str


def wanted(host: Host, source: Source, prefix: str) -> Program:
    """What the node shall have below the prefix: in a directory by the version, or, where that has
    other content, by version and digest. Raises Failure."""
    root = f"{prefix}/lib/urunc"
    python = interpreter(host, source, f"{root}/{source.version}")
    digest = hashlib.sha256(f"{prefix}\0{python.path}\0{python.magic}".encode())
    for name, file in source.files().items():
        digest.update(f"\0{name}\0".encode() + file.read_bytes())
    for script in source.scripts.values():
        digest.update(script.encode())
    for name in ("another.py", "bundle.py", "start.py"):
        digest.update((source.tools / name).read_bytes())
    value = digest.hexdigest()
    directory = f"{root}/{source.version}"
    if host.exists(directory) and host.read(f"{directory}/digest") != value:
        directory = f"{directory}-{value[:8]}"
    if python.brought:
        python.path = f"{directory}/python/bin/python3"
    files = {}
    for name, content in source.programs.items():
        files[f"{prefix}/bin/{name}"] = _led_to(content, directory)
    scripts = {name: _rewritten(text, python, directory) for name, text in source.scripts.items()}
    return Program(directory, not host.exists(f"{directory}/index"), python, scripts, files, value)


def _led_to(program: bytes, directory: str) -> bytes:
    """A compiled program, with its script in this directory; one that has none as it is."""
    found = DOOR.search(program)
    if not found:
        return program
    path = directory.encode() + b"/" + found[3]
    if len(path) >= len(found[0]):
        raise Failure(f"{directory}: too long a path for an installation")
    return program[: found.start()] + path.ljust(len(found[0]), b"\0") + program[found.end() :]


def _rewritten(script: str, python: Interpreter, directory: str) -> str:
    """A script for this interpreter and this directory."""
    script = PYTHON.sub(f"#!{python.path}", script)
    return re.sub(r"/[^\s\"]*/lib/urunc/[^/\s\"]+", directory, script)


def place(host: Host, source: Source, program: Program) -> None:
    """Make the version's directory under another name, bundled by the node's interpreter, and
    rename it when it is whole. Raises Failure."""
    temporary, tools = f"{program.directory}.new", f"{program.directory}.tools"
    for directory in (temporary, tools):
        host.remove(directory)
    host.about_to(f"copy urunc {source.version} to {program.directory}")
    if host.dry:
        return
    here, beside = host.path(temporary), host.path(tools)
    brought = source.python if program.interpreter.brought else None
    python = program.interpreter.path
    try:
        for name, file in source.files().items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, here / name)
        shutil.copytree(source.tools, beside / "launcher")
        if brought:
            shutil.copytree(brought, beside / "python", symlinks=True)
            python = f"{tools}/python/bin/python3"
        for name, script in program.scripts.items():
            (here / name).write_text(script)
            (here / name).chmod(0o755)
        (here / "digest").write_text(program.digest)
    except OSError as error:
        for directory in (temporary, tools):
            host.remove(directory)
        raise Failure(f"copy to {program.directory}: {error.strerror}") from error
    host.run(python, "-IS", f"{tools}/launcher/bundle.py", temporary, program.directory)
    if brought:
        (beside / "python").rename(here / "python")
    host.remove(tools)
    host.about_to(f"name {program.directory}")
    here.rename(host.path(program.directory))


def check(host: Host, program: Program) -> None:
    """Run the new urunc, before anything leads to it; raises Failure where that fails."""
    path = f"{program.directory}/try"
    door = next(data for name, data in program.files.items() if name.endswith("/urunc"))
    if host.dry:
        return
    host.write(path, door, 0o755)
    try:
        host.run(path, "--version")
    except Failure as error:
        raise Failure(f"urunc does not run on this node: {error}") from None
    finally:
        host.remove(path)


def in_use(host: Host, directory: str) -> bool:
    """Whether another process runs a version's code: its compiled module is mapped."""
    wanted = f"{directory}/"
    for maps in pathlib.Path("/proc").glob("[0-9]*/maps"):
        if maps.parent.name == str(os.getpid()):
            continue
        try:
            if wanted in maps.read_text(errors="replace"):
                return True
        except OSError:
            continue
    return False


def containers(host: Host) -> list[str]:
    """Directories of urunc's containers, under the roots that engines give it."""
    roots = ("/run/urunc", "/run/containerd/runc/*", "/run/containerd/urunc/*")
    found: list[str] = []
    for root in roots:
        directories = [root] if "*" not in root else host.matching(root)
        for directory in directories:
            found += [
                path for path in host.matching(f"{directory}/*") if host.exists(f"{path}/journal")
            ]
    return found
