# SPDX-License-Identifier: Apache-2.0
"""What the installer made on a node, so that it can take it back: PREFIX/lib/urunc/install.json.

Each entry is written before the thing itself is made. `pending` holds what files were before a
change that the engine has not yet been seen to live with: a run that was cut short finds it and
goes on, or goes back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields

from urunc.installer.host import Failure, Host

SCHEMA = 1


@dataclass
class Record:
    """The file's content."""

    engine: str = ""
    """The kind of the last run's (node.Node.kind)."""
    engines: list[str] = field(default_factory=list)
    """The kinds of all that know this urunc."""
    versions: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    backups: list[str] = field(default_factory=list)
    pending: dict[str, str | None] = field(default_factory=dict)
    ran: bool = False
    """Whether the engine ran when that began."""

    def note(self, kind: str, *paths: str) -> None:
        """Add what is not there yet."""
        known = getattr(self, kind)
        known += [path for path in paths if path not in known]


def path(prefix: str) -> str:
    """Where the record of a prefix is on the node."""
    return f"{prefix}/lib/urunc/install.json"


def load(host: Host, prefix: str) -> Record:
    """The record of a prefix, an empty one where there is none; raises Failure where it cannot be
    read, or is of another schema."""
    text = host.read(path(prefix))
    if text is None:
        return Record()
    try:
        data = json.loads(text)
        if data.pop("schema") != SCHEMA:
            raise ValueError("of another installer's version")
        known = {item.name for item in fields(Record)}
        return Record(**{name: value for name, value in data.items() if name in known})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path(prefix)}: {error}") from error


def save(host: Host, prefix: str, record: Record) -> None:
    """Write the record whole, for root alone to read; the directories that it needs come with
    it."""
    host.write_with_directories(
        path(prefix), json.dumps({"schema": SCHEMA} | asdict(record), indent=1) + "\n", 0o600
    )
