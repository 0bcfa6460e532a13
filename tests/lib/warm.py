# SPDX-License-Identifier: Apache-2.0
"""Containers that start from a snapshot: where the snapshots are, what the log says of them, and a
bundle that asks for one."""

from __future__ import annotations

import json
import pathlib

from lib.patience import until
from lib.saves import probe
from lib.support import Bundle, Container, Urunc, nothing_left

START, READY = "com.urunc.unikernel.start", "com.urunc.unikernel.ready"


class Warm:
    """Where snapshots are, and what the log says of them."""

    def __init__(self, urunc: Urunc, directory: pathlib.Path) -> None:
        self.urunc = urunc
        self.path = directory / "snapshots"
        self.log = directory / "log"
        self.log.touch()
        self.keys: dict[str, str | bool | int] = {
            "start.snapshots": "asked",
            "start.directory": str(self.path),
            "log.file": str(self.log),
        }

    def configure(self) -> None:
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in self.keys.items()]
        self.urunc.config.write_text("".join(lines))

    def sealed(self) -> list[pathlib.Path]:
        """The snapshots that can be used."""
        return [path.parent for path in self.path.glob("*/stamps")]

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def start(self, bundle: Bundle) -> Container:
        """A container that has been started; what the log said before is forgotten."""
        self.log.write_text("")
        container = self.urunc.create(bundle)
        container.start()
        return container

    def saved(self, bundle: Bundle, count: int = 1) -> None:
        """Boot one, have it saved, and end it."""
        with nothing_left(self.urunc.root):
            container = self.start(bundle)
            assert self.said("it boots, to be saved")
            until(lambda: self.said(": saved as"), "it is not saved", 60)
            assert len(self.sealed()) == count
            assert container.status() == "running"
            container.delete("--force")


def asking(
    path: pathlib.Path, monitor: str, *words: str, start: str = "snapshot same-random"
) -> Bundle:
    bundle = probe(path, monitor, "probe.beat=20", *words)
    bundle.config["annotations"] |= {START: start, READY: "line:beat"}
    return bundle
