# SPDX-License-Identifier: Apache-2.0
"""`start` of urunc's shim as each containerd runs it: what it sends, what it reads, and what
becomes of a shim whose answer it does not accept."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lib.patience import patient, until
from lib.shims import NAMESPACE, Shim, runc_options
from lib.support import PROJECT, Bundle, need, nothing_left
from urunc.shim.messages import decode, encode

ADDRESS_ONLY: list[dict[str, Any] | None] = [None, runc_options(binary_name="runc")]
"""What containerd up to 2.2 sends: nothing (without options), or an Any of them."""
IMPATIENT = """
import sys
from urunc.shim import attendance
attendance.ALONE_S = 0.5
sys.argv[0] = "containerd-shim-urunc-v2"
from urunc.shim.command import main
main()
"""


@pytest.fixture
def shim(tmp_path: pathlib.Path, bundle: Bundle) -> Iterator[Shim]:
    need("root", "installed")
    with nothing_left(), contextlib.closing(Shim(tmp_path, bundle)) as made:
        made.prepare()
        yield made


def started(shim: Shim, *program: str, stdin: bytes) -> bytes:
    """What containerd reads: standard output and standard error as one."""
    given = ("-namespace", NAMESPACE, "-address", shim.events.address, "-id", shim.id, "start")
    done = subprocess.run(
        [*program, *given], cwd=shim.bundle.path, input=stdin, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=patient(30), check=True,
        env={"TTRPC_ADDRESS": shim.events.address, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout


def parameters(shim: Shim, version: str) -> bytes:
    values = {
        "instance_id": shim.id,
        "namespace": NAMESPACE,
        "containerd_version": version,
        "containerd_ttrpc_address": shim.events.address,
        "containerd_grpc_address": shim.events.address,
        "socket_dir": shim.sockets,
    }
    return encode("containerd.runtime.bootstrap.v1.BootstrapParams", values)


@pytest.mark.parametrize("options", ADDRESS_ONLY, ids=["nothing", "options"])
def test_containerd_up_to_2_2(shim: Shim, options: dict[str, Any] | None) -> None:
    """An address, nothing else; the same for a second container of the shim."""
    stdin = encode("google.protobuf.Any", options) if options else b""
    answers = {started(shim, shim.program, stdin=stdin) for _ in range(2)}
    assert len(answers) == 1
    shim.address = answers.pop().decode()
    assert shim.address.startswith("unix:///run/containerd/s/")
    assert (shim.bundle.path / "address").read_text() == shim.address
    shim("Shutdown")
    until(lambda: not os.path.exists(shim.address.removeprefix("unix://")))
    shim.address = ""


def test_containerd_from_2_3_on(shim: Shim) -> None:
    """A message, nothing else; the address is kept for who looks after a dead shim."""
    for version, number in (("2.3.7", 2), ("2.4.2", 3)):
        data = started(shim, shim.program, stdin=parameters(shim, version))
        answer = decode("containerd.runtime.bootstrap.v1.BootstrapResult", data)
        assert (answer["version"], answer["protocol"]) == (number, "ttrpc")
        shim.address = answer["address"]
        assert shim.address.startswith(f"unix://{shim.sockets}/")
        assert (shim.bundle.path / "address").read_text() == shim.address
    shim.pid = shim("Connect")["shim_pid"]
    shim.leave()
    shim.address = ""


def test_an_answer_that_is_refused(shim: Shim) -> None:
    """Nobody connects, and nobody calls `delete`: the shim ends alone, and leaves no socket. One
    that somebody is connected to does not."""
    words = (sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PROJECT / 'src')!r})\n")
    program = (*words[:2], words[2] + IMPATIENT)
    started(shim, *program, stdin=parameters(shim, "2.4.2"))
    (name,) = os.listdir(shim.sockets)
    until(lambda: not os.listdir(shim.sockets), "it ends")
    answer = started(shim, *program, stdin=parameters(shim, "2.4.2"))
    address = decode("containerd.runtime.bootstrap.v1.BootstrapResult", answer)["address"]
    assert address.endswith(f"/{name}")
    shim.address = address
    shim.pid = shim("Connect")["shim_pid"]
    until(lambda: not os.path.exists(f"/proc/{shim.pid}"), "it ends")
    assert os.listdir(shim.sockets) == []
    shim.pid, shim.address = 0, ""


def test_what_goes_wrong_in_the_shim_is_in_its_log(shim: Shim) -> None:
    """And not in the answer, which would be another address."""
    broken = "import urunc.shim.verbs\nurunc.shim.verbs.Verbs = None\n"
    words = f"import sys; sys.path.insert(0, {str(PROJECT / 'src')!r})\n{broken}{IMPATIENT}"
    data = started(shim, sys.executable, "-c", words, stdin=parameters(shim, "2.4.2"))
    answer = decode("containerd.runtime.bootstrap.v1.BootstrapResult", data)
    assert answer["address"].startswith(f"unix://{shim.sockets}/")
    until(lambda: not os.listdir(shim.sockets), "it ends")
    assert "shim: TypeError" in shim.said()
