# SPDX-License-Identifier: Apache-2.0
"""deploy/install on a node that a test makes, and what containerd makes of its configuration.

The machine's containerd is 1.x. `make tools` builds a containerd 2 into build/tools, for those who
have Go; without it what needs one is skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from lib.patience import patient
from lib.places.containerd import version_of
from lib.places.node import CONTAINERD, Node
from lib.support import PROJECT, TOOLS, need

INSTALL = str(PROJECT / "deploy/install")

PREFIX = PROJECT / "build/prefix"

MAIN = "/etc/containerd/config.toml"

DROP_IN = "/etc/containerd/conf.d/urunc.toml"

V2, V3 = '"io.containerd.grpc.v1.cri"', '"io.containerd.cri.v1.runtime"'

AGENT = "/var/lib/rancher/{}/agent/etc/containerd"

WITH_RUNTIMES = f"""# ours
version = 2
root = "/var/lib/containerd"

[plugins.{V2}]
  sandbox_image = "registry.example.org/pause:1"   # not to be lost
  [plugins.{V2}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.{V2}.containerd.runtimes.runc.options]
      SystemdCgroup = true
  [plugins.{V2}.containerd.runtimes.other]
    runtime_type = "io.containerd.other.v1"
"""

PLAIN = f'version = 2\n[plugins.{V2}]\n  sandbox_image = "registry.example.org/pause:1"'

OLD = '[plugins.cri]\n  sandbox_image = "registry.example.org/pause:1"\n'

V3_PLAIN = f"version = 3\n[plugins.{V3}]\n  max_container_log_line_size = 4096\n"


def made_node() -> Iterator[Node]:
    """A fixture: a node with a containerd."""
    need("root", "installed")
    if not shutil.which("containerd"):
        need("docker")  # its package brings containerd
    with Node() as made:
        yield made


UNIT = "[Service]\nExecStart=/usr/local/bin/containerd\n"


def containerd2(node: Node) -> None:
    """Give the node a containerd 2."""
    need("containerd2")
    for name in ("containerd", "ctr"):
        shutil.copy(TOOLS / name, node.local / "bin" / name)
    # as containerd's own installation has it; the distribution's unit has the other one
    node.write("/etc/systemd/system/containerd.service", UNIT)


def needs_containerd_1() -> None:
    """Skip where the machine's containerd is a 2.x, which merges files."""
    program = shutil.which("containerd")
    if not program or version_of(program) >= (2,):
        pytest.skip("needs a containerd 1 of the machine's")


def install(
    node: Node, *words: str, verb: str = "install", check: bool = True
) -> subprocess.CompletedProcess[str]:
    words = ("--host", str(node.root), *words)
    return node.run(sys.executable, INSTALL, verb, *words, check=check)


def refused(node: Node, *words: str, verb: str = "install") -> str:
    """Run it in vain; nothing of the node's configuration may be different."""
    before = node.files("/etc", "/var")
    result = install(node, *words, verb=verb, check=False)
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stderr
    assert node.files("/etc", "/var") == before
    return result.stderr


def dump(node: Node) -> dict[str, Any]:
    """containerd's own view of the node's configuration."""
    verb = "dump" if node.path(MAIN).exists() else "default"
    command = ("chroot", str(node.root), "containerd", "config", verb)
    return tomllib.loads(node.run(*command, PATH="/usr/local/bin:/usr/bin:/usr/sbin").stdout)


def runtimes(parsed: dict[str, Any]) -> dict[str, Any]:
    plugin = (V3 if parsed["version"] >= 3 else V2).strip('"')
    found: dict[str, Any] = parsed["plugins"][plugin]["containerd"]["runtimes"]
    return found


def supervised(node: Node) -> None:
    """Start a real containerd that is kept up."""
    node.spawn(CONTAINERD, str(node.root))
    node.wait_for("/run/containerd/containerd.sock")


def handlers(node: Node) -> set[str]:
    """The runtimes that the running containerd has, asked over CRI: Status, with its details."""
    grpc = pytest.importorskip("grpc")
    socket = node.path("/run/containerd/containerd.sock")
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        status = channel.unary_unary("/runtime.v1.RuntimeService/Status")
        answer = status(b"\x08\x01", timeout=patient(20), wait_for_ready=True)
    start = answer.index(b'{"containerd":')
    config, _ = json.JSONDecoder().raw_decode(answer[start:].decode(errors="replace"))
    return set(config["containerd"]["runtimes"])


# the installer, which waits three seconds for an engine
QUICK = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/deploy/")[0] + "/src")
import urunc.installer.nodes
find = urunc.installer.nodes.find
def quick(*words):
    node = find(*words)
    node.start_s = 3
    return node
urunc.installer.nodes.find = quick
runpy.run_path(sys.argv[0], run_name="__main__")
"""
