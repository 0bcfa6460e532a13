# SPDX-License-Identifier: Apache-2.0
"""Ordinary containers through urunc: runc's own output, exit codes and state, in the same
--root."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from subprocess import DEVNULL

import pytest

from lib.busybox import BUSYBOX
from lib.support import PARTS, TOOLS, Bundle, Urunc, need
from urunc.shim.worker import RuntimeLog


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Bundle:
    need("runc", "busybox")
    made = Bundle(tmp_path / "ordinary")
    made.add("bin/sh", BUSYBOX)
    made.config["process"]["env"] = ["PATH=/bin"]
    for name in ("proc", "dev"):
        (made.root / name).mkdir()
    made.config["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
    ]
    return made


HYBRID = "cgroups in hybrid mode not supported"
"""What crun says of the two hierarchies together in newer versions: it runs nothing there."""


@pytest.fixture(params=["runc", "crun", "runc of make tools"])
def runtime(request: pytest.FixtureRequest, urunc: Urunc) -> str:
    """An ordinary runtime, which urunc hands over to."""
    program: str | None = shutil.which(str(request.param))
    if request.param.endswith("tools") and (TOOLS / "runc").exists():
        program = str(TOOLS / "runc")
    if not program:
        pytest.skip(f"needs {request.param}")
    urunc.config.write_text(f'{urunc.config.read_text()}\n[ordinary]\nruntime = "{program}"\n')
    return program


@pytest.mark.parametrize("file", ["container.json", "state.json"])
def test_lists_of_a_shared_root(
    urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path, runtime: str, file: str
) -> None:
    """Both list their own beside the other's, and urunc both; that, too, beside a container of an
    older urunc, at whose file runc ends from 1.3 on."""
    need("solo5", "probe")
    bundle.args("/bin/sh", "-c", "sleep 30")
    ordinary = urunc.new_id()
    create = urunc.command("create", "--bundle", str(bundle.write()), ordinary)
    output = tmp_path / "output"
    with output.open("wb") as out:
        made = subprocess.run(create, stdin=DEVNULL, stdout=out, stderr=out)
    if HYBRID in output.read_text():
        pytest.skip(HYBRID)
    assert made.returncode == 0, output.read_text()
    guest = Bundle(tmp_path / "guest", "rumprun", "spt")
    guest.add("unikernel", PARTS / "probe-bare.spt")
    guest.args("probe.hang")
    container = urunc.create(guest)
    directory = urunc.root / container.id
    (directory / "container.json").rename(directory / file)
    if file == "container.json":
        theirs = subprocess.run(
            [runtime, "--root", urunc.root, "list", "--format", "json"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert [item["id"] for item in json.loads(theirs)] == [ordinary]
    listed = json.loads(urunc("list", "--format", "json").stdout)
    found = {item["id"]: (item["status"], item["pid"]) for item in listed}
    assert found == {
        item: ("created", urunc.state(item)["pid"]) for item in (ordinary, container.id)
    }
    for line in urunc("list").stdout.splitlines()[1:]:
        assert line.split()[2] == "created" and line.split()[-1] == "root"
    urunc("delete", "--force", ordinary)
    container.delete("--force")


def test_why_it_failed(runtime: str, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """An ordinary runtime's own words reach the shim's client, which knows 127 by them."""
    bundle.args("/bin/none")
    log = RuntimeLog(str(tmp_path / "log"), making=True)
    words = ["--root", str(tmp_path / "root"), "create", "--bundle", str(bundle.write()), "c"]
    code = subprocess.run(
        [runtime, *log.options, *words], stdout=DEVNULL, stderr=DEVNULL
    ).returncode
    answer = log.answer(code)
    assert code and answer.kind == ""
    if HYBRID not in answer.message:
        assert "/bin/none" in answer.message
        assert "no such file or directory" in answer.message.lower()


def test_run(urunc: Urunc, bundle: Bundle) -> None:
    bundle.args("/bin/sh", "-c", "echo out; echo err >&2; exit 42")
    result = urunc("run", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert (result.returncode, result.stdout, result.stderr) == (42, "out\n", "err\n")


def test_whole_life_beside_a_guest(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    need("qemu", "probe")
    bundle.args("/bin/sh", "-c", "sleep 30")
    identifier = urunc.new_id()
    subprocess.run(
        urunc.command("create", "--bundle", str(bundle.write()), identifier),
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs = subprocess.run(
        ["runc", "--root", str(urunc.root), "state", identifier], capture_output=True, text=True
    ).stdout
    assert urunc("state", identifier).stdout == theirs
    guest = Bundle(tmp_path / "guest", "unikraft", "qemu", accelerator="tcg")
    guest.add("unikernel", PARTS / "probe.pvh")
    guest.args("app", "probe.hang")
    container = urunc.create(guest)
    listed = {
        item["id"]: item["status"] for item in json.loads(urunc("list", "--format", "json").stdout)
    }
    assert listed == {identifier: "created", container.id: "created"}
    taken = urunc("create", "--bundle", str(bundle.path), container.id, check=False)
    assert taken.returncode == 1
    taken = urunc("create", "--bundle", str(guest.path), identifier, check=False)
    assert taken.returncode == 1
    assert "already exists" in taken.stderr
    urunc("start", identifier)
    done = urunc("exec", identifier, "/bin/sh", "-c", "echo inside; exit 7", check=False)
    assert (done.returncode, done.stdout) == (7, "inside\n")
    assert json.loads(urunc("ps", "--format", "json", identifier).stdout)
    refused = urunc("exec", container.id, "/bin/sh", check=False)
    assert refused.returncode == 255
    assert "no processes" in refused.stderr
    urunc("kill", identifier, "KILL")
    for _ in range(100):
        if json.loads(urunc("state", identifier).stdout)["status"] == "stopped":
            break
    urunc("delete", identifier)
    assert not (urunc.root / identifier).exists()
    container.delete("--force")
