# SPDX-License-Identifier: Apache-2.0
"""Hooks of a guest's container (config.md, POSIX-platform Hooks; runtime.md, Lifecycle): where each
runs, with what, in which order, and what its failure does."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import time
from typing import Any

import pytest

from lib.busybox import BUSYBOX
from lib.patience import until
from lib.support import PARTS, Bundle, Urunc, need, nothing_left

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Bundle:
    """The probe on Solo5's spt, with a shell for hooks in the image's root."""
    need("solo5", "probe", "busybox")
    made = Bundle(tmp_path / "b", "rumprun", "spt")
    made.add("unikernel", PARTS / "probe-bare.spt")
    made.add("bin/busybox", BUSYBOX)
    made.args("probe.hang")
    return made


def shell(script: str, **members: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **members}


def inside(script: str, **members: Any) -> dict[str, Any]:
    """The same where the image's root is the root."""
    return {"path": "/bin/busybox", "args": ["sh", "-c", script], **members}


def test_order_and_namespaces(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """prestart and createRuntime in the runtime's namespaces; createContainer in the container's,
    before pivot_root; startContainer in the container's and the image's root; poststart and
    poststop in the runtime's."""
    log = tmp_path / "log"
    report = "$(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/uts)"
    bundle.config["hooks"] = {
        kind: [shell(f"echo {kind}{number} {report} >>{log}") for number in (0, 1)]
        for kind in KINDS
        if kind != "startContainer"
    }
    (bundle.root / "proc").mkdir()
    bundle.config["hooks"]["startContainer"] = [
        inside("echo startContainer $(busybox hostname) >/log", env=["PATH=/bin"])
    ]
    bundle.config["hostname"] = "box"
    container = urunc.create(bundle)
    mount, uts = (os.readlink(f"/proc/{container.pid}/ns/{kind}") for kind in ("mnt", "uts"))
    container.start()
    assert (bundle.root / "log").read_text() == "startContainer box\n"
    container.delete("--force")
    rows = [line.split() for line in log.read_text().splitlines()]
    assert [row[0] for row in rows] == [
        f"{kind}{number}" for kind in KINDS if kind != "startContainer" for number in (0, 1)
    ]
    host = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "uts")]
    for name, *found in rows:
        assert found == ([mount, uts] if name.startswith("createContainer") else host), name


def test_what_a_hook_is_given(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """The state on standard input, with the pid; its own environment and arguments and no
    others."""
    out = tmp_path / "out"
    script = f"(cat; echo; env; echo $0) >{out}"
    environment = ["ONE=1", "PATH=/bin:/usr/bin"]
    bundle.config["hooks"] = {
        "createRuntime": [
            {"path": "/bin/sh", "args": ["any name", "-c", script], "env": environment}
        ]
    }  # fmt: skip
    container = urunc.create(bundle)
    state, *rest = out.read_text().splitlines()
    given = json.loads(state)
    assert given["id"] == container.id
    assert given["pid"] == container.pid
    assert given["status"] == "creating"
    assert given["bundle"] == str(bundle.path)
    assert given["annotations"] == bundle.config["annotations"]
    assert set(rest) >= {"ONE=1", "PATH=/bin:/usr/bin", "any name"}
    assert not [line for line in rest if line.startswith(("HOME=", "URUNC", "LS_COLORS="))]
    container.delete("--force")


@pytest.mark.parametrize("names", [[], ["CAP_CHOWN", "CAP_KILL"]])
def test_a_program_of_the_image_has_no_more_than_the_application(
    urunc: Urunc, bundle: Bundle, names: list[str]
) -> None:
    """startContainer's programs are the image's: the image's root is the only one that they can
    reach, and their capabilities are among process.capabilities."""
    if names:
        sets = ("bounding", "effective", "permitted")
        bundle.config["process"]["capabilities"] = dict.fromkeys(sets, names)
    script = "busybox mount -t tmpfs none /out; echo $? >/mounted; exec busybox sleep 61.25"
    bundle.add("out/file", b"")
    bundle.config["hooks"] = {"startContainer": [inside(script, env=["PATH=/bin"])]}
    container = urunc.create(bundle)
    starting = subprocess.Popen(urunc.command("start", container.id), stderr=subprocess.DEVNULL)
    pid = until(lambda: next(iter(running("busybox\0sleep\x0061.25\0")), 0))
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    wanted = (1 << 0 | 1 << 5) if names else 0
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(facts[name], 16) == wanted, name
    assert int(facts["CapInh"], 16) == int(facts["CapAmb"], 16) == 0
    assert (bundle.root / "mounted").read_text() == "1\n"
    mounts = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1, mounts
    assert os.path.samefile(f"/proc/{pid}/root", bundle.root), mounts
    for number in ("0", "1", "2"):
        opened = os.readlink(f"/proc/{pid}/fd/{number}")
        assert opened.startswith("/memfd:hook-"), opened
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    os.kill(pid, 9)
    assert starting.wait() == 1
    container.delete("--force")


def running(words: str) -> list[int]:
    """The processes with this command line."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_text() == words:
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_failure_in_create(
    urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path, kind: str
) -> None:
    """create fails with what the hook said; the later hooks of the kind do not run; poststop does;
    nothing is left."""
    log = tmp_path / "log"
    bundle.config["hooks"] = {
        kind: [shell("echo the reason >&2; exit 5"), shell(f"echo later >>{log}")],
        "poststop": [shell(f"echo poststop >>{log}")],
    }
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert f"hook {kind}[0] '/bin/sh': exit code 5: the reason" in refused.stderr
    assert log.read_text() == "poststop\n"


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_takes_too_long(urunc: Urunc, bundle: Bundle, kind: str) -> None:
    """timeout is in seconds; then the hook is killed, and that is a failure."""
    hook = inside if kind == "startContainer" else shell
    program = "busybox sleep 3600" if kind == "startContainer" else "exec sleep 3600"
    bundle.config["hooks"] = {kind: [hook(program, timeout=1)]}
    began = time.monotonic()
    if kind == "startContainer":
        container = urunc.create(bundle)
        refused = urunc("start", container.id, check=False)
        container.wait_stopped()
        container.delete()
    else:
        with nothing_left(urunc.root):
            refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert f"{kind}[0]" in refused.stderr
    assert "not done within 1 s" in refused.stderr
    assert time.monotonic() - began >= 1


def test_a_failure_in_start(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """startContainer: start fails, the container stops without its guest having run; delete goes on
    to poststop."""
    log = tmp_path / "log"
    bundle.config["hooks"] = {
        "startContainer": [inside("busybox echo the reason; exit 4", env=["PATH=/bin"])],
        "poststart": [shell(f"echo poststart >>{log}")],
        "poststop": [shell(f"echo poststop >>{log}")],
    }
    container = urunc.create(bundle)
    refused = urunc("start", container.id, check=False)
    assert refused.returncode == 1
    assert "hook startContainer[0] '/bin/busybox': exit code 4: the reason" in refused.stderr
    container.wait_stopped()
    assert '"cmdline"' not in container.console.read_text()
    container.delete()
    assert log.read_text() == "poststop\n"


def test_a_failure_in_poststart(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """runtime.md, Lifecycle, 9: an error, and the container is stopped; those behind it do not
    run."""
    log = tmp_path / "log"
    bundle.config["hooks"] = {"poststart": [shell("exit 6"), shell(f"echo second >>{log}")]}
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        started = urunc("start", container.id, check=False)
        assert started.returncode == 1
        assert "hook poststart[0] '/bin/sh': exit code 6" in started.stderr
        assert container.status() == "stopped"
        assert not log.exists()
        container.delete()


def test_a_failure_in_poststop(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """A warning, and the remaining hooks and the lifecycle go on as if it had succeeded."""
    log = tmp_path / "log"
    bundle.config["hooks"] = {"poststop": [shell("exit 6"), shell(f"echo second >>{log}")]}
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        removed = urunc("delete", "--force", container.id)
    assert "warning: hook poststop[0] '/bin/sh': exit code 6" in removed.stderr
    assert log.read_text() == "second\n"
