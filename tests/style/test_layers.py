# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, what no module may import before it is needed, and how each module opens."""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterable, Iterator

import pytest

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent / "src"
FILES = sorted((SOURCE / "urunc").rglob("*.py"))
SLOW = {
    *("argparse", "ctypes", "dataclasses", "json", "logging", "os", "pathlib", "re"),
    *("subprocess", "typing"),
}
ROOMS = {
    "linux": "",
    "bundle": "config guests linux monitors",
    "guests": "bundle.elf config net.facts net.ipv4 plugins storage.facts",
    "monitors": "config guests monitor_client plugins",
    "plan": "bundle config filters guests linux.capabilities linux.files monitors net.facts"
    " programs storage.facts storage.look",
    "storage": "bundle config guests ids journal journaled linux plan.model plan.sizing"
    " programs state",
    "net": "bundle.network_files directory journal linux plan.model state",
    "cgroup": "bundle journal journaled linux plan.device_nodes plan.model state",
    "snapshot": "bundle.ready linux monitors net.facts plan.model plan.network storage.facts"
    " storage.sparse",
    "init": "bundle config guest_channel ids linux monitors plan.device_nodes plan.model programs"
    " state storage.facts storage.virtiofsd timing",
    "lifecycle": "bundle cgroup config directory filters guest_channel guests ids init journal"
    " journaled linux monitor_client monitors net plan snapshot state storage timing users",
    "cli": "bundle cgroup config doctor features guest_channel guests ids image init installer"
    " lifecycle linux metrics monitors net.facts ordinary plan snapshot.store state storage"
    " timestamps timing trial users",
    "installer": "",
    "image": "bundle config guests linux monitors plan.compatibility plan.host storage.cpio",
    "metrics": "cgroup config linux snapshot.store state storage.cache timestamps timing",
    "doctor": "config guest_channel linux monitors net.facts ordinary plan.compatibility plan.host"
    " plan.model programs state storage.mkfs storage.virtiofsd",
    "testing": "bundle.elf guests monitors net.facts storage.facts",
    "shim": "__main__ bundle cgroup config features guest_channel lifecycle linux monitors"
    " programs snapshot.files state storage.detached_mounts tomltext",
    "trial": "bundle.pods config doctor.kvm guests image linux monitors places plan.host",
    "__main__": "cli ordinary places state timing",
    "config": "bundle.ready linux.files storage.facts tomltext",
    "directory": "linux state",
    "features": "bundle cgroup.systemd config filters guests linux monitors ordinary programs"
    " storage.options",
    "filters": "bundle.document linux.seccomp",
    "guest_channel": "linux",
    "logs": "linux.files",
    "ids": "bundle linux",
    "journal": "linux state",
    "journaled": "cgroup.systemd journal linux net.host_devices net.resources",
    "monitor_client": "linux",
    "ordinary": "config linux places programs state",
    "places": "linux",
    "programs": "linux places",
    "state": "linux",
    "timestamps": "linux",
    "timing": "linux.files",
    "users": "bundle config ids journal journaled places plan.model programs",
}
"""Room, or module beside the rooms → what it may import beside itself and EVERYWHERE: rooms, or
single modules of them. Imports for type checkers alone count as well."""
EVERYWHERE = {"", "errors", "jsontext", "logs", "record", "vocabulary"}
PURE = {
    *("__future__", "typing", "collections.abc"),
    *("urunc.bundle", "urunc.config", "urunc.errors", "urunc.guests", "urunc.monitors"),
    *("urunc.net.facts", "urunc.plan", "urunc.record", "urunc.storage.facts"),
    "urunc.linux.capabilities",  # a table of numbers
    "urunc.vocabulary",  # nothing at run time
}
"""What plan/ may import, but for those that look: IMPURE."""
IMPURE = {"urunc.plan.host", "urunc.plan.prepare"}
HELPERS = {"errors", "jsontext", "record", "net.facts", "net.ipv4", "storage.facts"}


def name_of(file: pathlib.Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(file): file for file in FILES}


@functools.cache
def parsed(name: str) -> ast.Module:
    """A module's tree: only who runs one of these tests parses it."""
    return ast.parse(MODULES[name].read_text())


def room_of(name: str) -> str:
    """The room that a module of ours is in, or the module itself; "" for `urunc`."""
    return name.removeprefix("urunc").removeprefix(".").partition(".")[0]


def is_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(nodes: list[ast.stmt], *, functions: bool) -> Iterator[ast.stmt]:
    """Statements that run: on import alone, or with those in functions; a fallback for an
    ImportError and what only type checkers see do not count."""
    for node in nodes:
        if is_guard(node) or (isinstance(node, ast.FunctionDef) and not functions):
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, part, []), functions=functions)


def imports(name: str, *, functions: bool) -> set[str]:
    return names_in(name, statements(parsed(name).body, functions=functions))


def all_imports(name: str) -> set[str]:
    """With those in functions and those for type checkers."""
    return names_in(name, ast.walk(parsed(name)))


def names_in(name: str, nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {item if item in MODULES else str(node.module) for item in whole}
    return found


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def ours(name: str) -> set[str]:
    return {item for item in imports(name, functions=True) if below(item, "urunc")}


@pytest.mark.parametrize("name", MODULES)
def test_rooms(name: str) -> None:
    """Each room imports what its row of ROOMS says."""
    room = room_of(name)
    allowed = {f"urunc.{item}" for item in ROOMS.get(room, "").split()}
    wrong = {
        other
        for other in all_imports(name)
        if below(other, "urunc")
        and room_of(other) not in {room, *EVERYWHERE}
        and not any(below(other, item) for item in allowed)
    }
    assert not wrong, f"{name}: not in ROOMS: {', '.join(sorted(wrong))}"


def test_the_table_of_rooms_is_no_wider_than_it_has_to_be() -> None:
    for room, items in ROOMS.items():
        found = {item for name in MODULES if room_of(name) == room for item in all_imports(name)}
        for item in items.split():
            assert any(below(other, f"urunc.{item}") for other in found), f"{room}: {item}"


def test_what_is_below_knows_nothing_of_what_is_above() -> None:
    """The verbs are `cli`, what they do `lifecycle`; nothing but those and the shim knows them."""
    upper = {"cli": {"__main__"}, "shim": set(), "lifecycle": {"cli", "shim"}}
    for room, above in upper.items():
        known = {room_of(name) for name in MODULES if room in map(room_of, all_imports(name))}
        assert known <= {room, *above}


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) == "plan"])
def test_what_decides_is_pure(name: str) -> None:
    """No file, no clock, no kernel: a plan follows from arguments."""
    if name in IMPURE:
        return
    found = all_imports(name)
    assert {other for other in found if not any(below(other, item) for item in PURE)} == set()
    assert not found & IMPURE


def test_no_circle_of_imports() -> None:
    """Those for type checkers and those in functions count, too. What nobody in a circle imports,
    or what imports nothing of it, is taken away until nothing changes."""
    graph = {name: {item for item in all_imports(name) if item in MODULES} for name in MODULES}
    for name in graph:
        graph[name].discard(name)
    while True:
        imported = set().union(*graph.values())
        left = {
            name: others & graph.keys()
            for name, others in graph.items()
            if name in imported and others & graph.keys()
        }
        if left == graph:
            break
        graph = left
    assert graph == {}


@pytest.mark.parametrize("package", ["urunc.guests", "urunc.monitors"])
def test_guests_and_monitors_stand_alone(package: str) -> None:
    for name in MODULES:
        if below(name, package) and name != package:
            allowed = {package, *(f"urunc.{helper}" for helper in HELPERS)}
            whole = name.partition("_")[0]  # linux and linux_config are one guest
            others = {item for item in ours(name) if item.partition("_")[0] != whole}
            assert others - allowed == set(), name


def test_guests_and_monitors_know_of_each_other_only_words() -> None:
    assert "urunc.monitors" not in ours("urunc.guests")
    assert {item for item in ours("urunc.monitors") if "guests" in item} == {"urunc.guests"}


# loaded only where systemd makes the control groups; only for a script
OFF_THE_WAY = {"doctor", "image", "installer", "testing", "trial"}
"""Rooms that no container's life goes through."""
RARE = {
    "urunc.cgroup.systemd": {"ctypes"},
    "urunc.cli.by_hand": {"re"},
    "urunc.cli.trial": {"os"},
}


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) not in OFF_THE_WAY])
def test_nothing_slow_is_imported_early(name: str) -> None:
    early = {item.partition(".")[0] for item in imports(name, functions=False)}
    assert early & SLOW <= RARE.get(name, set())


@pytest.mark.parametrize("file", FILES, ids=map(name_of, FILES))
def test_openings(file: pathlib.Path) -> None:
    assert file.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert ast.get_docstring(parsed(name_of(file)))
