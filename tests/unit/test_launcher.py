# SPDX-License-Identifier: Apache-2.0
"""The installed program's modules, loaded at once, are as the import system would have them."""

from __future__ import annotations

import marshal
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
PROBE = """
import builtins, importlib, marshal, sys
usual = builtins.__import__
with open(sys.argv[1] + "/index", "rb") as file:
    _, start, place, modules, together = marshal.loads(file.read())
code = marshal.loads(start)
given = {"MODULES": modules, "TOGETHER": together, "LIBRARY": sys.argv[1], "CODE": place}
given["ENTRY"] = "probe"
sys.modules["probe"] = type("probe", (), {"main": staticmethod(lambda: None)})
exec(code, given)
before = set(sys.modules)
assert builtins.__import__ is usual
importlib.import_module(sys.argv[2])
for name in sorted(set(sys.modules) - before):
    module = sys.modules[name]
    if name.startswith("urunc") and modules[name][3]:  # not the compiled one
        parent, _, last = name.rpartition(".")
        assert module.__spec__.name == name and module.__file__.endswith(modules[name][0])
        assert not parent or getattr(sys.modules[parent], last) is module
        assert module.__package__ == (name if modules[name][1] else parent)
        assert hasattr(module, "__path__") == modules[name][1]
        print(name)
assert builtins.__import__ is usual
"""
PLAIN = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
print(*sorted(name for name in sys.modules if name.startswith("urunc")
        and sys.modules[name].__file__.endswith(".py")))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The package as `make install` bundles it."""
    built = tmp_path_factory.mktemp("library")
    shutil.copytree(PROJECT / "src/urunc", built / "urunc")
    command = [sys.executable, "-I", str(PROJECT / "launcher/bundle.py"), str(built), str(built)]
    subprocess.run(command, check=True)
    return built


def modules(script: str, library: pathlib.Path, *entries: str) -> list[str]:
    command = [sys.executable, "-I", "-S", "-c", script, str(library), *entries]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "entry",
    ["urunc.__main__", "urunc.cli.create", "urunc.cli.delete", "urunc.lifecycle.create",
     "urunc.cli.list", "urunc.shim.command", "urunc.shim.attendance"],
)  # fmt: skip
def test_modules(library: pathlib.Path, entry: str) -> None:
    along = runpy.run_path(str(PROJECT / "launcher/bundle.py"))["ALSO"].get(entry, ())
    assert modules(PROBE, library, entry) == modules(PLAIN, library, entry, *along)


def test_what_is_loaded_together(library: pathlib.Path) -> None:
    """The index names a verb's modules before those that import them."""
    *_, known, together = marshal.loads((library / "index").read_bytes())
    names, _, _ = together["urunc.lifecycle.create"]
    assert set(names) <= set(known)
    assert names.index("urunc.plan.model") < names.index("urunc.plan.decide")
    before = {
        name for entry in ("urunc.__main__", "urunc.cli.create") for name in together[entry][0]
    }
    assert before and not before & set(names)
    assert "urunc.lifecycle.create" not in names


def test_installed_anew_beside_what_runs(tmp_path: pathlib.Path) -> None:
    """The code of the same version's last installs stays, for shims that run; older goes."""
    command = ["make", "-s", "-C", str(PROJECT), "install", f"PREFIX={tmp_path}", "DESTDIR="]
    subprocess.run(command, check=True, capture_output=True)
    (library,) = (tmp_path / "lib/urunc").iterdir()
    (code,) = library.glob("code.*")
    old = [code.with_name(f"code.old.{age}") for age in range(5)]
    for age, file in enumerate(old):
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    subprocess.run(command, check=True, capture_output=True)
    assert set(library.glob("code.*")) == {code, *old[:2]}


def test_installed_anew_meanwhile(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Who has the index of one build never gets the code of another."""
    built = tmp_path / "library"
    shutil.copytree(library, built)
    with (built / "urunc/places.py").open("a") as module:
        module.write("ANOTHER = 1\n")
    command = [sys.executable, "-I", str(PROJECT / "launcher/bundle.py"), str(built), str(built)]
    subprocess.run(command, check=True)
    before, after = (marshal.loads((place / "index").read_bytes())[2] for place in (library, built))
    assert before != after
    assert {before, after} == {path.name for path in built.glob("code.*")}
    (built / after).unlink()
    with pytest.raises(subprocess.CalledProcessError) as error:
        modules(PROBE, built, "urunc.cli.list")
    assert "installed anew meanwhile: try again" in error.value.stderr
