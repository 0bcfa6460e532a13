# SPDX-License-Identifier: Apache-2.0
"""What is compiled, which pyproject.toml cannot say: the module, on the stable ABI, and the static
programs of guest-init/."""

import pathlib
import subprocess

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PROJECT = pathlib.Path(__file__).resolve().parent
LINUX = PROJECT / "src/urunc/linux"


class Build(build_ext):
    """The module, then the programs into the package."""

    def run(self) -> None:
        super().run()
        package = PROJECT / "src/urunc" if self.inplace else pathlib.Path(self.build_lib) / "urunc"
        command = ["make", "-C", str(PROJECT / "guest-init"), f"OUT={package.resolve()}"]
        subprocess.run(command, check=True)


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
