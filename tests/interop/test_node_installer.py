# SPDX-License-Identifier: Apache-2.0
"""deploy/install on a node with containerd, whose `config dump` is the judge."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from lib.installer import (
    DROP_IN,
    MAIN,
    OLD,
    PLAIN,
    PREFIX,
    V2,
    V3_PLAIN,
    WITH_RUNTIMES,
    containerd2,
    dump,
    install,
    made_node,
    needs_containerd_1,
    refused,
    runtimes,
)
from lib.places.node import Node
from lib.shims import PROGRAM
from lib.support import PROJECT, need

node = pytest.fixture(made_node)


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
    needs_containerd_1()
    whole_life(node, config, drop_in=False)


def test_containerd_1_whose_import_replaces_the_plugins_table(node: Node) -> None:
    needs_containerd_1()
    runc = f'[plugins.{V2}.containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
    other = f"version = 2\n{runc}"
    node.write("/etc/containerd/conf.d/99-other.toml", other)
    whole_life(node, 'imports = ["/etc/containerd/conf.d/*.toml"]\n' + PLAIN, drop_in=False)
    install(node)
    assert "urunc" in node.read("/etc/containerd/conf.d/99-other.toml")
    assert "urunc" not in node.read(MAIN)


def test_containerd_1_whose_import_means_something_else(node: Node) -> None:
    """A relative pattern, which containerd looked for where it was started, and beside the file
    from 1.6.30 and 1.7.16 on; there it replaces the plugin's table."""
    needs_containerd_1()
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
    needs_containerd_1()
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


# Runs the installer and ends it, as kill -9 would, at the step of this number, or never (-1). What
# is compiled for a start is compiled once, and then copied: that is most of what a run takes.
CUT = """
import os, shutil, sys
sys.path.insert(0, sys.argv[1])
from urunc.installer import job, nodes, program
from urunc.installer.host import Host
import pathlib
class Dying(Host):
    left = int(sys.argv[3])
    def about_to(self, what):
        if not self.left:
            os._exit(9)
        self.left -= 1
    def run(self, *words, **more):
        compiles = len(words) > 3 and words[2].endswith("/bundle.py")
        built, kept = self.path(words[3]) if compiles else None, pathlib.Path(sys.argv[5])
        if compiles and kept.exists():
            for path in kept.iterdir():
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, built / path.name)
            return None
        before = set(os.listdir(built)) if compiles else ()
        result = super().run(*words, **more)
        if compiles:
            kept.mkdir()
            for name in set(os.listdir(built)) - before:
                path = built / name
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, kept / name)
        return result
host = Dying(sys.argv[2], quiet=True)
project = pathlib.Path(sys.argv[1]).parent
source = program.Source(project / "build/prefix", project / "launcher", None)
task = job.Job(host, "/usr/local")
node = nodes.find(host)
task.install(node, source) if sys.argv[4] == "install" else task.uninstall(node)
"""


def placed(node: Node) -> tuple[dict[str, str], dict[str, object]]:
    """The node's files, and apart from them the record, in which the order may be another."""
    files = node.files()
    name = "local/lib/urunc/install.json"
    record = json.loads((node.here / name).read_text()) if files.pop(name, "") else {}
    assert not record.get("pending")
    return files, {
        key: sorted(value) if isinstance(value, list) else value for key, value in record.items()
    }


def directories(node: Node) -> set[str]:
    """The node's own directories, from /usr/local and /etc down."""
    tops = (node.local, node.root / "etc")
    return {str(path) for top in tops for path in top.rglob("*") if path.is_dir()}


@pytest.mark.parametrize("newest", [False, True], ids=["1", "2"])
@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_cut_short_between_any_two_steps(
    node: Node, tmp_path: pathlib.Path, verb: str, newest: bool
) -> None:
    """At every step containerd's configuration is a good one, and the next run ends it: with the
    same files and the same record, so that it is uninstalled alike whatever was cut short."""
    if newest:
        containerd2(node)
    node.write(MAIN, V3_PLAIN if newest else PLAIN)
    clean, bare = node.files(), directories(node)
    before = dump(node)
    not_installed = node.copy()
    install(node)
    done = placed(node)
    if verb == "install":
        node.put_back(not_installed)
    steps = 0

    def run(what: str, steps: int = -1) -> subprocess.CompletedProcess[str]:
        words = (str(PROJECT / "src"), str(node.root), str(steps), what, str(tmp_path / "compiled"))
        return node.run(sys.executable, "-c", CUT, *words, check=False)

    while True:
        result = run(verb, steps)
        now = dump(node)
        found = {name: value for name, value in runtimes(now).items() if name != "urunc"}
        assert found == runtimes(before)
        if result.returncode == 0:
            break
        assert result.returncode == 9, result.stderr
        steps += 1
        assert run("install").returncode == 0
        assert placed(node) == done
        if verb == "install":
            node.put_back(not_installed)
    assert steps > (10 if verb == "install" else 5)
    if verb == "install":
        assert placed(node) == done
        install(node, verb="uninstall")
    assert node.files() == clean
    assert directories(node) == bare


def test_cut_short_before_its_record_is_there(node: Node) -> None:
    """On a node without /usr/local/lib: no directory stays that nobody would remove, whether the
    next run installs or uninstalls."""
    node.write(MAIN, PLAIN)
    bare = directories(node)
    for steps in range(20):
        words = (str(PROJECT / "src"), str(node.root), str(steps), "install", str(node.here / "c"))
        node.run(sys.executable, "-c", CUT, *words, check=False)
        recorded = node.path("/usr/local/lib/urunc/install.json").exists()
        install(node, verb="uninstall")
        assert directories(node) == bare
        if recorded:
            break
    assert recorded and steps > 2


def moved(prefix: pathlib.Path, library: pathlib.Path) -> None:
    """A copy of the installed urunc stands at another prefix now, its modules in `library`."""
    script = [sys.executable, str(PROJECT / "launcher/door.py")]
    for program, name in (("urunc", "launch"), (PROGRAM.name, PROGRAM.name)):
        copies = [str(PREFIX / "bin" / program), str(prefix / "bin" / program)]
        subprocess.run([*script, *copies, str(library / name)], check=True)
        text = library / name
        text.write_text(text.read_text().replace(str(PREFIX), str(prefix)))


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
    program = program.rename(program.with_name("99.0.0"))
    moved(newer, program)
    launch = program / "launch"
    launch.write_text(launch.read_text().replace(f"lib/urunc/{old.name}", "lib/urunc/99.0.0"))
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
    needs_containerd_1()
    node.write(MAIN, WITH_RUNTIMES)
    source, python = tmp_path / "prefix", tmp_path / "python"
    shutil.copytree(PREFIX, source)
    moved(source, next((source / "lib/urunc").iterdir()))
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
    for program, option in (("urunc", "--version"), ("containerd-shim-urunc-v2", "-v")):
        node.run("chroot", str(node.root), f"/opt/urunc/bin/{program}", option)
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
        "import sys; sys.path.insert(0, sys.argv[1]); from urunc.installer.host import Host;"
        "host = Host(sys.argv[2]); print(host.prefix()[0]);"
        "print(host.run('readlink', '/proc/self/ns/mnt', '/proc/1/ns/mnt').stdout)"
    )
    words = [sys.executable, "-c", code, str(PROJECT / "src"), str(tmp_path)]
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
