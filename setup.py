# SPDX-License-Identifier: Apache-2.0
"""What is compiled, which pyproject.toml cannot say: the module, on the stable ABI, the static
programs of guest-init/, and what `urunc install` copies to a PREFIX beside the modules."""

import pathlib
import shutil
import subprocess
import tempfile

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PROJECT = pathlib.Path(__file__).resolve().parent
LINUX = PROJECT / "src/urunc/linux"
PROGRAMS = ("guest-init", "supervisor")
"""Static ones, which are in the package beside the modules."""
LEFT_OUT = shutil.ignore_patterns("urunc", "index", "code.*", "__pycache__", *PROGRAMS)
"""Of an installed version's directory, what is in the wheel already, or for one interpreter."""


class Build(build_ext):
    """The module, then the programs into the package."""

    def run(self) -> None:
        super().run()
        if self.inplace:
            make("-C", "guest-init", f"OUT={PROJECT / 'src/urunc'}")
        else:
            stage(pathlib.Path(self.build_lib) / "urunc")


def make(*words: str) -> None:
    """Run make(1) in the project."""
    subprocess.run(["make", "--no-print-directory", *words], check=True, cwd=PROJECT)


def stage(package: pathlib.Path) -> None:
    """The programs, and a PREFIX without the modules (urunc.installer.program.WHEEL)."""
    target = package / "prefix"
    with tempfile.TemporaryDirectory() as staged:
        make("install", "PREFIX=/usr/local", f"DESTDIR={staged}")
        prefix = pathlib.Path(staged, "usr/local")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(prefix / "bin", target / "bin")
        for library in (prefix / "lib/urunc").iterdir():
            shutil.copytree(library, target / "lib/urunc" / library.name, ignore=LEFT_OUT)
            for name in PROGRAMS:
                shutil.copy(library / name, package / name)


setup(
    cmdclass={"build_ext": Build},
    ext_modules=[
        Extension(
            "urunc.linux._linux",
            sorted(str(path.relative_to(PROJECT)) for path in LINUX.glob("*.c")),
            depends=[str((LINUX / "_linux.h").relative_to(PROJECT))],
            py_limited_api=True,
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
