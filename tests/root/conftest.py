# SPDX-License-Identifier: Apache-2.0
"""The container that most of these tests make."""

from __future__ import annotations

import pathlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from lib.patience import until
from lib.support import PARTS, Bundle, need


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Bundle:
    """The probe on Solo5's spt: nothing but Linux is needed."""
    need("solo5", "probe")
    made = Bundle(tmp_path / "b", "rumprun", "spt")
    made.add("unikernel", PARTS / "probe-bare.spt")
    made.args("probe.hang")
    return made


@pytest.fixture
def with_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """The door is on, also where all tests run without it: for those that are about it."""
    monkeypatch.delenv("URUNC_DOOR", raising=False)


@pytest.fixture
def registry(tmp_path: pathlib.Path) -> Iterator[str]:
    """The address of a registry on loopback."""
    need("docker-registry", "skopeo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/kept}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    with (tmp_path / "registry.log").open("w") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", config], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: _answers(address), "the registry answers")
        yield address
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except OSError:
        return False
    return True
