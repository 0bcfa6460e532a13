# SPDX-License-Identifier: Apache-2.0
"""deploy/install on nodes of every kind, with the real containerd as judge, and as the service.

The machine's containerd is 1.x. `make tools` builds a containerd 2 into build/tools, for those who
have Go; without it what needs one is skipped. CRI-O's and k3s's programs are small doubles here.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from lib.places.node import CONTAINERD, K3S, Node
from lib.support import PROJECT, need

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


@pytest.fixture
def node() -> Iterator[Node]:
    need("root", "installed")
    if not shutil.which("containerd"):
        need("docker")  # its package brings containerd
    with Node() as made:
        yield made


def containerd2(node: Node) -> None:
    """Give the node a containerd 2."""
    need("containerd2")
    for name in ("containerd", "ctr"):
        shutil.copy(PROJECT / "build/tools" / name, node.local / "bin" / name)


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
    return parsed["plugins"][plugin]["containerd"]["runtimes"]


def whole_life(node: Node, config: str | None, *, drop_in: bool) -> None:
    """Install, again, uninstall: what containerd says differs by urunc alone, and in the end the
    files are what they were."""
    if config is not None:
        node.write(MAIN, config)
    files = node.files()
    before = dump(node)
    said = install(node).stdout
    assert "is installed" in said
    assert node.path(DROP_IN).exists() == drop_in
    after = dump(node)
    found = runtimes(after).pop("urunc")
    assert found["pod_annotations"] == ["com.urunc.unikernel.*"]
    assert found["container_annotations"] == ["com.urunc.unikernel.*"]
    if found["runtime_type"] == "io.containerd.runc.v2":
        assert found["options"]["BinaryName"] == "/usr/local/bin/urunc"
        old = runtimes(before)["runc"]["options"].get("SystemdCgroup", False)
        assert found["options"]["SystemdCgroup"] == old
    for parsed in (before, after):
        del parsed["imports"]
    assert after == before
    version = node.run("chroot", str(node.root), "/usr/local/bin/urunc", "--version").stdout
    assert "urunc" in version
    done = node.files()
    assert "was installed already" in install(node).stdout
    assert node.files() == done
    assert "is uninstalled" in install(node, verb="uninstall").stdout
    assert node.files() == files
    assert "nothing to do" in install(node, verb="uninstall").stdout


@pytest.mark.parametrize(
    "config",
    [None, PLAIN, WITH_RUNTIMES, OLD, "", "version = 2\n"],
    ids=["no file", "no runtimes", "runtimes", "version 1", "empty", "version"],
)
def test_containerd_1(node: Node, config: str | None) -> None:
    whole_life(node, config, drop_in=False)


def test_containerd_1_whose_import_replaces_the_plugins_table(node: Node) -> None:
    runc = f'[plugins.{V2}.containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
    other = f"version = 2\n{runc}"
    node.write("/etc/containerd/conf.d/99-other.toml", other)
    whole_life(node, 'imports = ["/etc/containerd/conf.d/*.toml"]\n' + PLAIN, drop_in=False)
    install(node)
    assert "urunc" in node.read("/etc/containerd/conf.d/99-other.toml")
    assert "urunc" not in node.read(MAIN)


def test_containerd_1_whose_import_means_something_else(node: Node) -> None:
    """A relative pattern, which containerd 1 looks for where it was started."""
    other = f'version = 2\n[plugins.{V2}.containerd.runtimes.runc]\nruntime_type = "a.b.c"\n'
    node.write("/etc/containerd/conf.d/99-other.toml", other)
    whole_life(node, 'imports = ["conf.d/*.toml"]\n' + PLAIN, drop_in=False)


@pytest.mark.parametrize(
    "config",
    [
        None,
        V3_PLAIN,
        f'imports = ["/etc/containerd/conf.d/*.toml"]\n{V3_PLAIN}',
        f"# first\n imports = [ # a list\n  '/etc/containerd/more/*.toml',\n]\n{V3_PLAIN}",
        f"imports = []\n{V3_PLAIN}",
        WITH_RUNTIMES,
    ],
    ids=["no file", "plain", "imports it", "imports others", "imports none", "version 2"],
)
def test_containerd_2(node: Node, config: str | None) -> None:
    containerd2(node)
    whole_life(node, config, drop_in=True)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("[plugins\n", "not TOML"),
        (
            f"version = 2\n[plugins.{V2}]\nsandbox_image = 3\n",
            "not a configuration that containerd",
        ),
        ('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n', "disables"),
        (
            f'version = 2\n[plugins.{V2}.containerd.runtimes.urunc]\nruntime_type = "a.b.c"\n',
            "did not make",
        ),
        (f"version = 2\n[plugins.{V2}.containerd]\nruntimes = {{}}\n", "not TOML"),
    ],
    ids=["broken", "wrong type", "disabled", "somebody's urunc", "inline table"],
)
def test_what_cannot_be_is_refused_before_anything_changes(
    node: Node, config: str, reason: str
) -> None:
    node.write(MAIN, config)
    assert reason in refused(node)
    assert not node.path("/usr/local/bin/urunc").exists()


def test_a_read_only_file(node: Node) -> None:
    node.write(MAIN, WITH_RUNTIMES)
    etc = str(node.root / "etc")
    node.run("mount", "--bind", etc, etc)
    node.run("mount", "-o", "remount,ro,bind", etc)
    assert "Read-only" in refused(node)
    assert not node.path("/usr/local/bin/urunc").exists()
    node.run("mount", "-o", "remount,rw,bind", etc)
    install(node)
    assert "urunc" in runtimes(dump(node))


def test_another_urunc_is_not_replaced(node: Node) -> None:
    node.write("/usr/local/bin/urunc", "#!/bin/sh\n", 0o755)
    assert "not made by this installer" in refused(node)
    assert node.read("/usr/local/bin/urunc") == "#!/bin/sh\n"


def test_a_dry_run_shows_and_changes_nothing(node: Node) -> None:
    node.write(MAIN, PLAIN)
    before = node.files()
    said = install(node, "--dry-run").stdout
    assert f"+++ {MAIN}" in said
    assert '+  BinaryName = "/usr/local/bin/urunc"' in said or "io.containerd.urunc.v2" in said
    assert node.files() == before
    install(node)
    before = node.files()
    assert f"--- {MAIN}" in install(node, "--dry-run", verb="uninstall").stdout
    assert node.files() == before


def test_a_link_of_the_nodes_is_followed_within_the_node(node: Node) -> None:
    node.write("/etc/real/config.toml", WITH_RUNTIMES)
    node.path("/etc/containerd").mkdir()
    node.path(MAIN).symlink_to("/etc/real/config.toml")
    install(node)
    assert node.path(MAIN).is_symlink()
    assert "urunc" in node.read("/etc/real/config.toml")
    install(node, verb="uninstall")
    assert node.read("/etc/real/config.toml") == WITH_RUNTIMES


# Runs the installer and ends it, as kill -9 would, at the step of this number.
CUT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from installer import job, nodes, program
from installer.host import Host
import pathlib
class Dying(Host):
    left = int(sys.argv[3])
    def about_to(self, what):
        if not self.left:
            os._exit(9)
        self.left -= 1
host = Dying(sys.argv[2], quiet=True)
project = pathlib.Path(sys.argv[1]).parent
source = program.Source(project / "build/prefix", project / "launcher", None)
task = job.Job(host, "/usr/local")
node = nodes.find(host)
task.install(node, source) if sys.argv[4] == "install" else task.uninstall(node)
"""


def placed(node: Node) -> dict[str, bytes]:
    """The node's files but for the record, in which the order may be another."""
    files = node.files()
    record = json.loads(files.pop("local/lib/urunc/install.json", b"{}"))
    assert not record.get("pending")
    return files


@pytest.mark.parametrize("newest", [False, True], ids=["1", "2"])
@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_cut_short_between_any_two_steps(node: Node, verb: str, newest: bool) -> None:
    """At every step containerd's configuration is a good one, and the next run ends it."""
    if newest:
        containerd2(node)
    node.write(MAIN, V3_PLAIN if newest else PLAIN)
    clean = node.files()
    before = dump(node)
    install(node)
    done = placed(node)
    if verb == "install":
        install(node, verb="uninstall")
    steps = 0
    while True:
        words = (str(PROJECT / "deploy"), str(node.root), str(steps), verb)
        result = node.run(sys.executable, "-c", CUT, *words, check=False)
        now = dump(node)
        found = {name: value for name, value in runtimes(now).items() if name != "urunc"}
        assert found == runtimes(before)
        if result.returncode == 0:
            break
        assert result.returncode == 9, result.stderr
        steps += 1
        install(node)
        assert placed(node) == done
        if verb == "install":
            install(node, verb="uninstall")
            assert node.files() == clean
    assert steps > (10 if verb == "install" else 5)
    assert placed(node) == (done if verb == "install" else clean)


def test_an_upgrade_leaves_the_old_version_beside(node: Node, tmp_path: pathlib.Path) -> None:
    node.write(MAIN, PLAIN)
    install(node)
    directories = node.path("/usr/local/lib/urunc")
    (old,) = [path for path in directories.iterdir() if path.is_dir()]
    before = node.files(f"/usr/local/lib/urunc/{old.name}")
    config = node.read(MAIN)
    newer = tmp_path / "prefix"
    shutil.copytree(PREFIX, newer)
    program = newer / "lib/urunc" / old.name
    text = (newer / "bin/urunc").read_text().replace(str(PREFIX), str(newer))
    text = text.replace(f"lib/urunc/{old.name}", "lib/urunc/99.0.0")
    (newer / "bin/urunc").write_text(text)
    program = program.rename(program.with_name("99.0.0"))
    module = program / "urunc/__init__.py"
    module.write_text(module.read_text().replace(f'"{old.name}"', '"99.0.0"'))
    said = install(node, "--source", str(newer)).stdout
    assert "99.0.0" in said and "restart" not in said
    assert node.read(MAIN) == config
    assert node.files(f"/usr/local/lib/urunc/{old.name}") == before
    said = node.run("chroot", str(node.root), "/usr/local/bin/urunc", "--version").stdout
    assert "99.0.0" in said
    # and another build of the same version, whose directory may be in use
    module.write_text(module.read_text() + "\n")
    install(node, "--source", str(newer))
    assert len([path for path in directories.iterdir() if path.is_dir()]) == 3
    install(node, verb="uninstall")
    assert not directories.exists()


def test_a_shim_of_its_own_another_prefix_and_a_python_brought_along(
    node: Node, tmp_path: pathlib.Path
) -> None:
    """As on a node whose /usr is read-only and has no Python: all below /opt."""
    node.write(MAIN, WITH_RUNTIMES)
    source, python = tmp_path / "prefix", tmp_path / "python"
    shutil.copytree(PREFIX, source)
    launcher = (source / "bin/urunc").read_text().replace(str(PREFIX), str(source))
    (source / "bin/urunc").write_text(launcher)
    shim = source / "bin/containerd-shim-urunc-v2"
    shim.write_text(shim.read_text().replace(str(PREFIX), str(source)))
    interpreter = pathlib.Path("/usr/bin/python3").resolve()
    library = pathlib.Path("/usr/lib") / interpreter.name
    if not library.is_dir():
        pytest.skip("needs the distribution's Python in /usr")
    (python / "bin").mkdir(parents=True)
    shutil.copy(interpreter, python / "bin/python3")
    shutil.copytree(library, python / "lib" / library.name, symlinks=True)
    for name in (*node.root.glob("usr/bin/python3*"), *node.root.glob("usr/local/bin/python3*")):
        raise AssertionError(f"seen from outside: {name}")
    masked = "for p in usr/bin/python3.*; do mount --bind /dev/null $p; done"
    node.run("sh", "-c", f"cd {node.root}; {masked}")
    words = ("--source", str(source), "--python", str(python), "--prefix", "/opt/urunc",
             "--shim", "urunc")  # fmt: skip
    (node.root / "opt").mkdir()
    before = node.files("/etc", "/opt")
    said = install(node, *words).stdout
    assert "/python/bin/python3" in said
    found = runtimes(dump(node))["urunc"]
    assert found["runtime_type"] == "io.containerd.urunc.v2"
    assert found["runtime_path"] == "/opt/urunc/bin/containerd-shim-urunc-v2"
    for name, option in (("urunc", "--version"), ("containerd-shim-urunc-v2", "-v")):
        node.run("chroot", str(node.root), f"/opt/urunc/bin/{name}", option)
    assert "was installed already" in install(node, *words).stdout
    install(node, "--prefix", "/opt/urunc", verb="uninstall")
    assert node.files("/etc", "/opt") == before


def test_no_python(node: Node) -> None:
    node.run(
        "sh",
        "-c",
        f"cd {node.root}; for p in usr/bin/python3.*; do mount --bind /dev/null $p; done",
    )
    assert "no Python" in refused(node)


def test_a_pod_runs_programs_in_the_nodes_namespaces(tmp_path: pathlib.Path) -> None:
    """The node is a PID namespace with a first process of its own here, the pod a mount namespace
    in it."""
    need("root")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from installer.host import Host;"
        "host = Host(sys.argv[2]); print(host.prefix()[0]);"
        "print(host.run('readlink', '/proc/self/ns/mnt', '/proc/1/ns/mnt').stdout)"
    )
    words = [sys.executable, "-c", code, str(PROJECT / "deploy"), str(tmp_path)]
    pod = 'mount --bind / "$0"; exec "$@"'
    first = 'unshare --mount sh -c "$@"; exit $?'
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]
    command += ["sh", "-c", first, "sh", pod, str(tmp_path)]
    answer = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    program, *namespaces = answer.stdout.split()
    assert program == "nsenter"
    assert len(namespaces) == 2 and len(set(namespaces)) == 1


def test_a_version_that_a_process_runs_stays(node: Node) -> None:
    node.write(MAIN, PLAIN)
    install(node)
    (module,) = node.path("/usr/local/lib/urunc").rglob("_linux*.so")
    path = "/usr/local/" + str(module.relative_to(node.local))
    code = f"import ctypes, time; ctypes.CDLL({path!r}); open('/run/mapped', 'w'); time.sleep(600)"
    node.spawn('exec chroot "$1" /usr/bin/python3 -c "$2"', str(node.root), code)
    node.wait_for("/run/mapped")
    result = install(node, verb="uninstall", check=False)
    assert "still runs it" in result.stderr
    assert module.exists()
    assert "urunc" not in runtimes(dump(node))
    assert not node.path("/usr/local/bin/urunc").exists()


def test_a_node_with_containers_is_not_bereft(node: Node) -> None:
    node.write(MAIN, PLAIN)
    install(node)
    node.write("/run/containerd/runc/k8s.io/abc/journal", "")
    assert "drain" in refused(node, verb="uninstall")
    install(node, "--force", verb="uninstall")


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
        answer = status(b"\x08\x01", timeout=20, wait_for_ready=True)
    start = answer.index(b'{"containerd":')
    config, _ = json.JSONDecoder().raw_decode(answer[start:].decode(errors="replace"))
    return set(config["containerd"]["runtimes"])


@pytest.mark.parametrize("newest", [False, True], ids=["1", "2"])
def test_a_running_containerd_knows_urunc(node: Node, newest: bool) -> None:
    if newest:
        containerd2(node)
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


# the installer, which waits three seconds for an engine
QUICK = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
import installer.nodes
find = installer.nodes.find
def quick(*words):
    node = find(*words)
    node.start_s = 3
    return node
installer.nodes.find = quick
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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
    found = PROJECT / "build/tools/containerd" if newest else shutil.which("containerd")
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
    for name, values in tomllib.loads(file.read_text())["crio"]["runtime"]["runtimes"].items():
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


def test_the_installed_urunc_is_configured_where_it_is(node: Node) -> None:
    """`make install` on the node itself: nothing is copied, and nothing of it removed."""
    node.write(MAIN, PLAIN)
    destination = node.here / "stage"
    make = ["make", "--no-print-directory", "-C", str(PROJECT), "install", "PREFIX=/usr/local"]
    subprocess.run([*make, f"DESTDIR={destination}"], check=True, capture_output=True)
    shutil.copytree(destination / "usr/local", node.local, dirs_exist_ok=True)
    before = node.files()
    install(node, "--source", str(node.root / "usr/local"))
    assert "urunc" in runtimes(dump(node))
    install(node, "--source", str(node.root / "usr/local"))
    install(node, verb="uninstall")
    assert node.files() == before


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


def test_where_it_was_looked_for(node: Node) -> None:
    node.run("mount", "-t", "tmpfs", "tmpfs", str(node.root / "usr/bin"))
    said = refused(node)
    assert "no containerd, CRI-O, k3s or RKE2 on this node: nobody listens at" in said
    assert "/usr/local/bin" in said and "/opt/containerd/bin" in said
    node.run("umount", str(node.root / "usr/bin"))


def test_a_program_that_does_not_read_the_file(node: Node) -> None:
    """containerd 1 does not know a version 3, in which there is no import to blame."""
    node.write(MAIN, V3_PLAIN)
    said = refused(node)
    assert "import" not in said
    assert "/usr/bin/containerd sees no runtime 'urunc'" in said or "not a configuration" in said
