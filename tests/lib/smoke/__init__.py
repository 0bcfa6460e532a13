# SPDX-License-Identifier: Apache-2.0
"""What the smoke lists of the engines share: checks of what users do every day, by name, in two
tables: `ordinary.CHECKS` and `guests.CHECKS`; here is what both are made of.

Nothing in this package knows which engine it has. What only one of them offers is in that one's
list.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple, Self

from lib.places.engine import Engine

MIB = 1 << 20
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30}


class Seen(NamedTuple):
    """What a user sees of a command."""

    code: int
    out: str
    err: str


class Side:
    """An engine with one of its runtimes, and a container `kept` that lives as long as it is in
    use. `kind` is in the names of its containers."""

    kind = ""

    def __init__(self, engine: Engine, runtime: str) -> None:
        self.engine = engine
        self.runtime = runtime
        self.name = f"smoke-{self.kind}-{runtime.replace('.', '-')}"
        self.kept = f"{self.name}-kept"

    def see(self, *words: str, code: int | None = 0, stdin: str | None = None) -> Seen:
        """A command of the engine's, as its user sees it, without what is another's each time;
        `code` is what it must end with, None: not 0."""
        result = self.engine(*words, check=False, stdin=stdin)
        assert result.returncode == code or (code is None and result.returncode), result
        return Seen(result.returncode, self.general(result.stdout), self.general(result.stderr))

    def general(self, text: str) -> str:
        """A text without ids and names of its own, the runtime's (with which Podman introduces its
        words), what Docker's client says of its own race, and what runc says on the container's own
        output, where urunc's shim has it write."""
        text = re.sub(r"^(runc create|exec) failed: .*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r'time="\S+" level=error msg="error waiting .*\n', "", text)
        text = re.sub(
            rf"^Error: (OCI runtime error: )?{self.runtime}: ", r"Error: \1RUNTIME: ", text
        )
        return re.sub(r"\b[0-9a-f]{12}([0-9a-f]{52})?\b", "ID", text.replace(self.name, "NAME"))

    def started(self, name: str) -> Seen:
        """`run -d` of what lives until it is told to end, with a memory limit of 64 MiB."""
        raise NotImplementedError

    @contextlib.contextmanager
    def another(self) -> Iterator[str]:
        """One more such container, which is removed."""
        name = f"{self.name}-other"
        try:
            self.started(name)
            yield name
        finally:
            self.engine.remove(name)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Self]:
        """Have `kept`."""
        try:
            self.started(self.kept)
            yield self
        finally:
            self.engine.remove(self.kept)

    def state(self, container: str, *fields: str) -> str:
        """What `inspect` says of a container's state."""
        form = " ".join(f"{{{{.State.{field}}}}}" for field in fields)
        return self.engine("inspect", "--format", form, container).stdout.strip()

    def logs(self, container: str) -> Seen:
        """`logs`."""
        return self.see("logs", container)

    def stats(self, container: str) -> tuple[int, int, int]:
        """What `stats` shows: processes, memory in use, its limit; the last two in bytes."""
        form = "{{.PIDs}} {{.MemUsage}}"
        line = self.engine("stats", "--no-stream", "--format", form, container).stdout
        pids, used, _, limit = line.split()
        return int(pids), size(used), size(limit)


def size(text: str) -> int:
    """Bytes, as engines print them."""
    number, unit = re.findall(r"^([0-9.]+)(\w+)$", text)[0]
    return round(float(number) * UNITS[unit])
