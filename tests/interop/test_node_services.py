# SPDX-License-Identifier: Apache-2.0
"""deploy/install and the engine that runs: restarted, well or not, and which of several it is."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from lib.installer import (
    INSTALL,
    MAIN,
    PLAIN,
    QUICK,
    V2,
    V3_PLAIN,
    WITH_RUNTIMES,
    containerd2,
    dump,
    handlers,
    install,
    made_node,
    needs_containerd_1,
    refused,
    runtimes,
    supervised,
)
from lib.places.node import CONTAINERD, Node

node = pytest.fixture(made_node)


@pytest.mark.parametrize("newest", [False, True], ids=["1", "2"])
def test_a_running_containerd_knows_urunc(node: Node, newest: bool) -> None:
    containerd2(node) if newest else needs_containerd_1()
    node.write(MAIN, V3_PLAIN if newest else PLAIN)
    supervised(node)
    said = install(node).stdout
    assert "SIGTERM" in said and "is well" in said
    plugins = node.run("chroot", str(node.root), "ctr", "plugins", "ls").stdout
    rows = [line.split() for line in plugins.splitlines()]
    assert ["cri", "ok"] in [[row[1], row[-1]] for row in rows if len(row) > 3]
    assert handlers(node) == {"runc", "urunc"}
    said = install(node).stdout
    assert "SIGTERM" not in said and "was installed already" in said
    verified = install(node, verb="verify").stdout
    assert "FAIL" not in verified
    assert "SIGTERM" in install(node, verb="uninstall").stdout
    assert handlers(node) == {"runc"}
    assert install(node, verb="verify", check=False).returncode == 1


def test_a_containerd_that_does_not_come_back_gets_its_old_files(node: Node) -> None:
    needs_containerd_1()
    node.write(MAIN, WITH_RUNTIMES)
    node.write("/refuse", "")
    supervised(node)
    command = [sys.executable, "-c", QUICK, INSTALL, "install", "--host", str(node.root)]
    result = node.run(*command, check=False)
    assert result.returncode == 1, result.stdout
    assert "not well" in result.stderr and "well again" in result.stdout
    assert node.read(MAIN) == WITH_RUNTIMES
    assert handlers(node) == {"runc", "other"}
    assert not node.path("/usr/local/bin/urunc").exists()
    node.path("/refuse").unlink()
    install(node)
    assert handlers(node) == {"runc", "other", "urunc"}


def test_a_containerd_that_was_not_well_before(node: Node) -> None:
    """Its CRI plugin does not start, which `config dump` does not see: not ours to mend, nor
    a reason to go back."""
    node.write(MAIN, f'version = 2\n[plugins.{V2}.containerd]\ndefault_runtime_name = "none"\n')
    supervised(node)
    assert "FAIL service: containerd's plugin" in install(node, verb="verify", check=False).stdout
    command = [sys.executable, "-c", QUICK, INSTALL, "install", "--host", str(node.root)]
    assert "as far as it was" in node.run(*command).stdout
    assert "urunc" in runtimes(dump(node))


def test_cut_short_before_the_restart(node: Node) -> None:
    """The files are in place, and the engine has not read them: the next run restarts it."""
    needs_containerd_1()
    node.write(MAIN, PLAIN)
    supervised(node)
    install(node, "--restart", "none")
    record = node.path("/usr/local/lib/urunc/install.json")
    content = json.loads(record.read_text())
    content |= {"pending": {MAIN: PLAIN}, "ran": True}
    record.write_text(json.dumps(content))
    assert handlers(node) == {"runc"}
    said = install(node).stdout
    assert "cut short" in said and "SIGTERM" in said
    assert handlers(node) == {"runc", "urunc"}
    assert json.loads(record.read_text())["pending"] == {}


COUNTED = """#!/bin/sh
echo "$0 $*" >>/run/asked
exec /usr/bin/containerd "$@"
"""
"""A second containerd, which tells that it was asked."""


def second(node: Node, path: str) -> None:
    """Another containerd than the distribution's: a copy, for one that runs is known by its
    file."""
    here = node.path(path)
    here.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy("/usr/bin/containerd", here)


UNIT = "[Service]\nType=notify\nExecStart={}\nRestart=always\n"


@pytest.mark.parametrize("path", ["/opt/kube/bin/containerd", "/opt/containerd/bin/containerd"])
def test_the_containerd_that_the_service_starts(node: Node, path: str) -> None:
    """Beside the distribution's, which Docker uses: by its ExecStart, with the file that it is
    given; a drop-in has the last word."""
    node.write(path, COUNTED, 0o755)
    main = "/etc/kube/containerd.toml"
    node.write(main, PLAIN)
    node.write(
        "/etc/systemd/system/containerd.service.d/10-kube.conf",
        f"[Service]\nExecStart=\nExecStart=-{path} \\\n  --config={main} -a /run/kube.sock\n",
    )
    node.write("/etc/systemd/system/containerd.service", UNIT.format("/usr/bin/containerd"))
    said = install(node).stdout
    assert f"containerd: {path} (of containerd.service)" in said
    assert "urunc" in node.read(main)
    assert not node.path(MAIN).exists()
    assert f"{path} --config" in node.read("/run/asked")
    verified = install(node, verb="verify", check=False).stdout
    assert f"engine: containerd: {path}" in verified
    assert "FAIL service: nobody answers at /run/kube.sock" in verified
    install(node, verb="uninstall")
    assert node.read(main) == PLAIN


def test_the_containerd_that_runs(node: Node) -> None:
    """What listens at the socket is the node's, whatever else is there."""
    second(node, "/opt/kube/containerd")
    node.write("/etc/systemd/system/containerd.service", UNIT.format("/usr/bin/containerd"))
    main = "/etc/kube/containerd.toml"
    node.write(main, f'root = "/var/c"\nstate = "/run/c"\n{PLAIN}')
    node.spawn(
        'exec env -i PATH=/usr/bin:/usr/sbin chroot "$1" /opt/kube/containerd --config "$2" '
        '--address /run/containerd/containerd.sock',
        str(node.root), main,
    )  # fmt: skip
    node.wait_for("/run/containerd/containerd.sock")
    said = install(node, "--restart", "none").stdout
    assert "containerd: /opt/kube/containerd (process " in said
    assert "urunc" in node.read(main)
    assert not node.path(MAIN).exists()


SERVER = '[plugins."io.containerd.server.v1.grpc"]'


@pytest.mark.parametrize(
    ("newest", "table", "imported"),
    [
        (False, "[grpc]", False),
        (False, "[grpc]", True),
        (True, "[grpc]", False),
        (True, SERVER, True),
    ],
    ids=["1", "1, imported", "2", "version 4, imported"],
)
def test_a_socket_of_the_configuration(
    node: Node, newest: bool, table: str, imported: bool
) -> None:
    """Where containerd listens is what its file says, if it is started without --address; version 4
    has it in a plugin's table."""
    containerd2(node) if newest else needs_containerd_1()
    base = V3_PLAIN if newest else PLAIN + "\n"
    head, rest = base.split("\n", 1)
    if table == SERVER:
        head = "version = 4"
    address = f'{table}\naddress = "/run/other/c.sock"\n'
    if imported:
        node.write("/etc/other.toml", f"{head}\n{address}")
        node.write(MAIN, f'{head}\nimports = ["/etc/other.toml"]\n{rest}')
    else:
        node.write(MAIN, f"{head}\n{rest}{address}")
    if node.run("chroot", str(node.root), "containerd", "config", "dump", check=False).returncode:
        pytest.skip("this containerd 2 is older than version 4")
    verified = install(node, verb="verify", check=False).stdout
    assert "FAIL service: nobody answers at /run/other/c.sock" in verified
    node.spawn(CONTAINERD, str(node.root))
    node.wait_for("/run/other/c.sock")
    said = install(node).stdout
    assert "which listens at /run/other/c.sock" in said and "is well" in said
    assert "FAIL" not in install(node, verb="verify").stdout
    assert "SIGTERM" in install(node, verb="uninstall").stdout


def test_a_socket_of_a_file_that_nobody_reads(node: Node) -> None:
    """A containerd with another file listens at the default one's place."""
    node.write(MAIN, '[grpc]\naddress = "/run/old.sock"\n')
    node.write("/etc/kube/containerd.toml", PLAIN)
    node.spawn('exec env -i PATH=/usr/bin:/usr/sbin chroot "$1" containerd '
               '--config /etc/kube/containerd.toml', str(node.root))  # fmt: skip
    node.wait_for("/run/containerd/containerd.sock")
    said = install(node, "--restart", "none").stdout
    assert "which listens at /run/containerd/containerd.sock" in said
    assert "urunc" in node.read("/etc/kube/containerd.toml")


def test_where_it_was_looked_for(node: Node) -> None:
    node.run("mount", "-t", "tmpfs", "tmpfs", str(node.root / "usr/bin"))
    said = refused(node)
    assert "no containerd, CRI-O, k3s or RKE2 on this node: nobody listens at" in said
    assert "/usr/local/bin" in said and "/opt/containerd/bin" in said
    node.run("umount", str(node.root / "usr/bin"))


def test_a_program_that_does_not_read_the_file(node: Node) -> None:
    """containerd 1 does not know a version 3, in which there is no import to blame."""
    needs_containerd_1()
    node.write(MAIN, V3_PLAIN)
    said = refused(node)
    assert "import" not in said
    assert "/usr/bin/containerd sees no runtime 'urunc'" in said or "not a configuration" in said
