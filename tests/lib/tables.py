# SPDX-License-Identifier: Apache-2.0
"""The tables of the documentation that are made: of what the code says of itself, and of the cases
that the tests run, so that neither says what the other does not.

`make tables` writes them into the pages; tests/unit/test_tables fails where a page has another one.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Callable, Iterable, Sequence
from textwrap import wrap
from typing import NamedTuple

from lib import cluster_items, endings, engine_table, keys, measured, ways
from urunc import guests
from urunc.config import Config
from urunc.guests import BUILT_IN, Guest
from urunc.monitors import BUILT_IN as MONITORS

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
PACKAGE = PROJECT / "src/urunc"


class Table(NamedTuple):
    """A table of a page; its lines stand between two comments that name it."""

    page: str
    name: str
    lines: Callable[[], list[str]]

    @property
    def path(self) -> pathlib.Path:
        return PROJECT / self.page

    @property
    def begin(self) -> str:
        return f"<!-- made by `make tables`: {self.name} -->\n"

    def text(self) -> str:
        """As it ought to be."""
        return "".join(f"{line}\n" for line in self.lines())

    def shown(self) -> str:
        """As the page has it."""
        _, begin, rest = self.path.read_text().partition(self.begin)
        text, end, _ = rest.partition("<!-- end -->\n")
        assert begin and end, f"{self.page} has no place for the table '{self.name}'"
        return text

    def write(self) -> None:
        """Put it into the page."""
        page = self.path.read_text()
        self.path.write_text(page.replace(self.begin + self.shown(), self.begin + self.text()))


def rows(head: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [
        f"| {' | '.join(head)} |",
        "|" + "-|" * len(head),
        *(f"| {' | '.join(row)} |" for row in cells),
    ]


def yes(value: object) -> str:
    return "yes" if value else "no"


def guest_row(guest: Guest) -> list[str]:
    return [
        guest.name,
        ", ".join(name for name in MONITORS if name in guest.monitors),
        *(yes(kind in guest.storage) for kind in ("initrd", "block")),
        yes(guest.takes_arguments),
        yes(guest.takes_environment),
        yes(guest.takes_hostname),
        yes(guest.takes_ipv6),
        yes(guest.root_forms),
    ]


def guest_table() -> list[str]:
    """What each guest says that it takes; the tests of their words hold them to it."""
    head = ("guest", "monitors", "initrd", "block", "arguments", "environment", "hostname",
            "IPv6", "`mountRootfs`")  # fmt: skip
    built_in = [guest_row(guests.load(name, Config())) for name in BUILT_IN]
    template = ["a template", "any; see below", *["if set"] * 2, *["if in its line"] * 4, "no"]
    return rows(head, [*built_in, template])


def ending_table() -> list[str]:
    head = ("what happens", "exit code by urunc", "QEMU's own", "reason in `events` and the log")
    return rows(
        head,
        (
            (case.words, str(case.code), str(case.alone), case.reason.replace("|", "\\|"))
            for case in endings.CASES
        ),
    )


def probe_table() -> list[str]:
    head = ("monitor", "what happens", "the monitor's exit code", "reason in `events`")
    return rows(
        head, ((case.monitor, case.words, str(case.status), case.reason) for case in endings.PROBES)
    )


def root_table() -> list[str]:
    """Places in the order in which formats are taken, and the filesystems of devices."""
    setups = [f"{guest} on {monitor}" for guest, monitor in ways.ROOTED]
    return rows(["format", *setups], ways.root_cells())


def volume_table() -> list[str]:
    return rows(["guest", *(content.words for content in ways.CONTENTS)], ways.volume_cells())


def cluster_table() -> list[str]:
    head = ("what", "an ordinary container", "a guest", "instead")
    return rows(head, cluster_items.cells())


def opening(file: pathlib.Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())


def stem(file: pathlib.Path) -> str:
    return file.stem


def room_table() -> list[str]:
    """The packages below src/urunc, with what their charters begin with, and their modules."""
    rooms = sorted(file.parent for file in PACKAGE.glob("*/__init__.py"))
    return rows(
        ("room", "what it is for", "modules"),
        (
            (
                f"`{room.name}/`",
                opening(room / "__init__.py"),
                ", ".join(f"`{file.stem}`" for file in sorted(room.glob("[a-z]*.py"), key=stem)),
            )
            for room in rooms
        ),
    )


def flat_table() -> list[str]:
    files = sorted(PACKAGE.glob("[a-z]*.py"))
    return rows(("module", "what it is"), ((f"`{file.stem}`", opening(file)) for file in files))


def decision_table() -> list[str]:
    cells = []
    for path in sorted((PROJECT / "docs/decisions").glob("[0-9]*.md")):
        heading = path.read_text().partition("\n# ")[2].partition("\n")[0]
        number, _, title = heading.partition(". ")
        cells.append((number, f"[{title}]({path.name})"))
    return rows(("number", "decision"), cells)


def engines_table() -> list[str]:
    head, *cells = engine_table.table()
    return rows(head, cells)


def machine_table() -> list[str]:
    head, *cells = engine_table.about()
    return rows(head, cells)


def goal_table() -> list[str]:
    head, *cells = measured.goals()
    return rows(head, cells)


def runtime_table() -> list[str]:
    head, *cells = measured.runtimes()
    return rows(head, cells)


def shim_table() -> list[str]:
    head, *cells = measured.shims()
    return rows(head, cells)


def engine_run_table() -> list[str]:
    head, *cells = measured.engines()
    return rows(head, cells)


def crowd_table() -> list[str]:
    head, *cells = measured.crowds()
    return rows(head, cells)


TABLES = (
    Table("README.md", "measured machine", measured.machine),
    Table("README.md", "measured goals", goal_table),
    Table("docs/performance.md", "measured machine", lambda: wrap(measured.machine()[0], 120)),
    Table("docs/performance.md", "measured goals", goal_table),
    Table("docs/performance.md", "measured runtimes", runtime_table),
    Table("docs/performance.md", "measured shims", shim_table),
    Table("docs/performance.md", "measured engines", engine_run_table),
    Table("docs/performance.md", "measured crowds", crowd_table),
    Table("docs/engines.md", "engines on machines", engines_table),
    Table("docs/engines.md", "machines", machine_table),
    Table("docs/decisions/README.md", "decisions", decision_table),
    Table("HACKING.md", "rooms", room_table),
    Table("HACKING.md", "flat modules", flat_table),
    Table("docs/kubernetes.md", "what a pod may ask for", cluster_table),
    Table("docs/specification.md", "keys", keys.table),
    Table("docs/guests.md", "guests", guest_table),
    Table("docs/monitors.md", "endings of a Linux guest", ending_table),
    Table("docs/monitors.md", "endings of other guests", probe_table),
    Table("docs/storage.md", "ways of root filesystems", root_table),
    Table("docs/storage.md", "ways of volumes", volume_table),
)

if __name__ == "__main__":
    for table in TABLES:
        table.write()
