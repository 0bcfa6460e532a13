# SPDX-License-Identifier: Apache-2.0
"""`urunc doctor CONTAINER` on real guests: one that is well, one that prints nothing, one that
panics."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from lib.patience import until
from lib.rooted import own_init, spared
from lib.support import PARTS, Bundle, Container, Network, Urunc, need


def asked(urunc: Urunc, container: Container, *words: str) -> tuple[int, list[dict[str, Any]]]:
    done = urunc("doctor", "--format", "json", *words, container.id, check=False)
    return done.returncode, json.loads(done.stdout)


def of(found: list[dict[str, Any]], subject: str) -> dict[str, Any]:
    return next(item for item in found if item["subject"] == subject)


def test_one_that_is_well(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    network.connect()
    bundle = Bundle(tmp_path / "b", "unikraft", "qemu", accelerator="tcg")
    bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", "probe.serve")
    bundle.network(network.path)
    need("probe", "qemu")
    container = urunc.create(bundle)
    code, found = asked(urunc, container)
    assert code == 0 and of(found, "status")["text"] == "created"
    container.start()
    network.ping()
    code, found = asked(urunc, container)
    assert code == 0, found
    assert of(found, "guest")["text"].startswith("unikraft on qemu, ")
    assert of(found, "status")["text"] == "running"
    assert "waits for something" in of(found, "monitor")["text"]
    assert network.inside_address in of(found, "network")["text"]
    assert "0 frames from" not in of(found, "network")["text"]
    assert str(container.console) in of(found, "console")["text"]
    text = urunc("doctor", container.id).stdout
    assert all(len(line) <= 80 or str(tmp_path) in line for line in text.splitlines())
    urunc("pause", container.id)
    _, found = asked(urunc, container)
    assert of(found, "monitor")["advice"] == f"urunc resume {container.id}"
    urunc("resume", container.id)
    container.delete("--force")


def test_one_that_prints_nothing(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """Its console is looked for where the user says; a guest that sends nothing is a problem."""
    network.connect()
    need("probe", "qemu")
    bundle = Bundle(tmp_path / "b", "unikraft", "qemu", accelerator="tcg")
    bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", "probe.burn=60000")
    bundle.network(network.path)
    container = urunc.create(bundle)
    container.start()
    container.wait_for("cmdline")
    empty = tmp_path / "empty"
    empty.touch()
    code, found = asked(urunc, container, "--console", str(empty))
    assert code == 1
    assert "nothing on the console" in of(found, "console")["text"]
    assert "% of a processor" in of(found, "monitor")["text"]
    assert "0 frames from the guest" in of(found, "network")["text"]
    container.delete("--force")
    done = urunc("doctor", container.id, check=False)
    assert done.returncode == 1 and "does not exist" in done.stderr
    done = urunc("doctor", "--console", str(empty), check=False)
    assert done.returncode == 1 and "only with a container's ID" in done.stderr


def test_one_that_panics(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """The console of a container that has ended is where it was."""
    need("linux", "qemu")
    bundle = own_init(tmp_path / "b", "true")
    bundle.config["vm"] = spared("rdinit=/none")
    container = urunc.create(bundle)
    container.start()
    until(lambda: container.status() == "stopped", container.shown, 60)
    code, found = asked(urunc, container, "--console", str(container.console))
    assert of(found, "status")["text"].startswith("stopped")
    assert code == 1 and "no root filesystem" in of(found, "console")["text"], container.shown()
    container.delete()
