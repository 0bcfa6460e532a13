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


LEFT_OUT = shutil.ignore_patterns("urunc", "index", "code.*", "__pycache__")
"""Of an installed version's directory, what is in the wheel already, or for one interpreter."""


class Build(build_ext):
    """The module, then the programs into the package."""

    def run(self) -> None:
        super().run()
        package = PROJECT / "src/urunc" if self.inplace else pathlib.Path(self.build_lib) / "urunc"
        command = ["make", "-C", str(PROJECT / "guest-init"), f"OUT={package.resolve()}"]
        subprocess.run(command, check=True)
        if not self.inplace:
            stage(package / "prefix")


def stage(target: pathlib.Path) -> None:
    """A PREFIX without the modules (urunc.installer.program.WHEEL)."""
    with tempfile.TemporaryDirectory() as staged:
        words = ["install", "PREFIX=/usr/local", f"DESTDIR={staged}"]
        subprocess.run(["make", "--no-print-directory", "-C", str(PROJECT), *words], check=True)
        prefix = pathlib.Path(staged, "usr/local")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(prefix / "bin", target / "bin")
        for library in (prefix / "lib/urunc").iterdir():
            shutil.copytree(library, target / "lib/urunc" / library.name, ignore=LEFT_OUT)


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
