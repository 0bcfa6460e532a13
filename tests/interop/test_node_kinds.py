# SPDX-License-Identifier: Apache-2.0
"""deploy/install on nodes of k3s, RKE2 and CRI-O, whose programs are small doubles here."""

from __future__ import annotations

import shutil
import sys
import tomllib

import pytest

from lib.installer import AGENT, INSTALL, QUICK, V2, V3, install, made_node, refused, runtimes
from lib.places.node import K3S, Node
from lib.support import TOOLS, need

node = pytest.fixture(made_node)


K3S_BASE = f"""version = 2
[plugins.{V2}]
  stream_server_port = "10010"
[plugins.{V2}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.{V2}.containerd.runtimes.runc.options]
  SystemdCgroup = true
"""

K3S_BASE_3 = f"""version = 3
[plugins.{V3}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.{V3}.containerd.runtimes.runc.options]
  SystemdCgroup = false
"""

SYSTEMCTL = """#!/bin/sh
echo "$@" >>/run/systemctl.log
case $1 in
    is-enabled | is-active) [ "$2" = {unit} ] ;;
    restart) exec python3 /var/lib/k3s.py {agent} /run/k3s/containerd/containerd.sock ;;
esac
"""


def rancher(node: Node, kind: str, base: str, unit: str, version: str = "v1.33.1") -> str:
    """Make the node one of k3s or RKE2, which runs; returns the directory of its configuration."""
    agent = AGENT.format(kind)
    directory = "data/current/bin" if kind == "k3s" else "bin"
    programs = node.path(f"/var/lib/rancher/{kind}/{directory}")
    programs.mkdir(parents=True)
    newest = "version = 3" in base
    if newest:
        need("containerd2")
    found = TOOLS / "containerd" if newest else shutil.which("containerd")
    shutil.copy(str(found), programs / "containerd")
    node.write(f"{agent}/base.toml", base)
    node.write("/var/lib/k3s.py", K3S)
    node.write("/usr/local/bin/systemctl", SYSTEMCTL.format(unit=unit, agent=agent), 0o755)
    node.write(
        f"/usr/local/bin/{kind}", f"#!/bin/sh\necho {kind} version {version}+{kind}1\n", 0o755
    )
    node.path("/run/systemd/system").mkdir(parents=True)
    node.path("/run/k3s/containerd").mkdir(parents=True)
    node.run("chroot", str(node.root), "systemctl", "restart", unit)
    return agent


@pytest.mark.parametrize(
    ("kind", "unit", "base", "template"),
    [
        ("k3s", "k3s.service", K3S_BASE, "config.toml.tmpl"),
        ("k3s", "k3s-agent.service", K3S_BASE_3, "config-v3.toml.tmpl"),
        ("rke2", "rke2-server.service", K3S_BASE, "config.toml.tmpl"),
        ("rke2", "rke2-agent.service", K3S_BASE_3, "config-v3.toml.tmpl"),
    ],
)
@pytest.mark.parametrize("own", ["", '{{ template "base" . }}\n\n[debug]\n  level = "info"'])
def test_k3s_and_rke2_by_template(
    node: Node, kind: str, unit: str, base: str, template: str, own: str
) -> None:
    agent = rancher(node, kind, base, unit)
    if own:
        node.write(f"{agent}/{template}", own)
        node.run("chroot", str(node.root), "systemctl", "restart", unit)
    before = node.files()
    said = install(node).stdout
    assert f"systemctl restart {unit}" in said
    assert node.read(f"{agent}/{template}").startswith(own or "{{ template")
    rendered = tomllib.loads(node.read(f"{agent}/config.toml"))
    assert set(runtimes(rendered)) == {"runc", "urunc"}
    assert "was installed already" in install(node).stdout
    install(node, verb="uninstall")
    assert node.files() == before


def test_k3s_by_drop_in(node: Node) -> None:
    agent = AGENT.format("k3s")
    base = f'imports = ["{agent}/config-v3.toml.d/*.toml"]\n' + K3S_BASE_3
    rancher(node, "k3s", base, "k3s.service")
    before = node.files()
    install(node)
    assert node.path(f"{agent}/config-v3.toml.d/urunc.toml").exists()
    assert not node.path(f"{agent}/config-v3.toml.tmpl").exists()
    assert "was installed already" in install(node).stdout
    install(node, verb="uninstall")
    assert node.files() == before


def test_k3s_that_does_not_come_back(node: Node) -> None:
    agent = rancher(node, "k3s", K3S_BASE, "k3s.service")
    node.write(f"{agent}/refuse", "")
    before = node.files("/var")
    command = [sys.executable, "-c", QUICK, INSTALL, "install", "--host", str(node.root)]
    result = node.run(*command, check=False)
    assert result.returncode == 1
    assert "well again" in result.stdout
    assert node.files("/var") == before


def test_k3s_without_a_base_template(node: Node) -> None:
    rancher(node, "k3s", K3S_BASE, "k3s.service", "v1.27.4")
    assert "please update" in refused(node)


def test_k3s_that_never_ran(node: Node) -> None:
    agent = rancher(node, "k3s", K3S_BASE, "k3s.service")
    node.path(f"{agent}/config.toml").unlink()
    assert "please start k3s first" in refused(node)


# CRI-O in a few lines: its configuration with the drop-ins, as TOML; a key that it does not know is
# an error.
CRIO = """#!/usr/bin/python3
import pathlib, sys, tomllib
words = sys.argv[1:]
directory = pathlib.Path(words[words.index("--config-dir") + 1])
seen = {}
for file in sorted(directory.iterdir()):
    crio = tomllib.loads(file.read_text())["crio"]
    if "api" in crio:
        print(f'[crio.api]\\nlisten = "{crio["api"]["listen"]}"')
    for name, values in crio.get("runtime", {}).get("runtimes", {}).items():
        assert set(values) <= {"runtime_path", "runtime_type", "runtime_root", "monitor_path"}
        seen[name] = values
for name, values in seen.items():
    print(f"[crio.runtime.runtimes.{name}]")
    for key, value in values.items():
        print(f'{key} = "{value}"')
"""


def test_crio(node: Node) -> None:
    node.write("/usr/local/bin/crio", CRIO, 0o755)
    runc = '[crio.runtime.runtimes.runc]\nmonitor_path = "/usr/libexec/crio/conmon"\n'
    node.write("/etc/crio/crio.conf.d/10-crio.conf", runc)
    before = node.files()
    install(node, "--engine", "crio")
    found = tomllib.loads(node.read("/etc/crio/crio.conf.d/99-urunc.conf"))
    assert found["crio"]["runtime"]["runtimes"]["urunc"] == {
        "runtime_path": "/usr/local/bin/urunc",
        "runtime_type": "oci",
        "runtime_root": "/run/urunc",
        "monitor_path": "/usr/libexec/crio/conmon",
    }
    assert "was installed already" in install(node, "--engine", "crio").stdout
    install(node, "--engine", "crio", verb="uninstall")
    assert node.files() == before
    assert "please name one" in refused(node)


def test_crios_socket(node: Node) -> None:
    node.write("/usr/local/bin/crio", CRIO, 0o755)
    node.write("/etc/crio/crio.conf.d/10-api.conf", '[crio.api]\nlisten = "/run/other.sock"\n')
    said = install(node, "--engine", "crio", verb="verify", check=False).stdout
    assert "FAIL service: nobody answers at /run/other.sock" in said
