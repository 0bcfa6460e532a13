# SPDX-License-Identifier: Apache-2.0
"""The verbs that every tool drives (runtime.md; runc's command line): output, exit codes, error
texts that containerd, Docker, Podman and CRI-O look for."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest

from lib.support import Bundle, Urunc, nothing_left

NAMES_OF_OTHERS = {"state.json", "status", "config.json", "exec.fifo", "youki_config.json"}
"""What runc, crun and youki keep of a container: whoever finds one of these reads it as its own."""
STATE = {"ociVersion", "id", "status", "pid", "bundle", "annotations"}


def test_state_and_list(urunc: Urunc, bundle: Bundle) -> None:
    """runtime.md, State: these members and no others; pid 0 once it is stopped."""
    container = urunc.create(bundle)
    container.start()
    state = urunc.state(container.id)
    assert set(state) == STATE
    assert state["pid"] == container.pid
    assert json.loads(urunc("list", "--format=json").stdout) == [state]
    table = urunc("list").stdout.splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert table[1].split()[:4] == [
        container.id, str(container.pid), "running", str(bundle.path),
    ]  # fmt: skip
    assert urunc("list", "-q").stdout == f"{container.id}\n"
    urunc("kill", container.id, "KILL")
    container.wait_stopped()
    assert urunc.state(container.id)["pid"] == 0
    file = urunc.root / container.id / "container.json"
    whole = file.read_text()
    file.write_text(whole.replace('"pid"', '"dip"'))
    listed = urunc("list", "--quiet")
    assert listed.stdout == ""
    assert "pid" in listed.stderr and str(file) in listed.stderr
    file.write_text(whole)
    container.delete()
    assert urunc("list", "--format", "json").stdout == "[]\n"


def test_a_container_of_an_older_version(urunc: Urunc, bundle: Bundle) -> None:
    """Its file has the name that an ordinary runtime's has, too: it is found, and keeps it."""
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        directory = urunc.root / container.id
        assert not {path.name for path in directory.iterdir()} & NAMES_OF_OTHERS
        (directory / "container.json").rename(directory / "state.json")
        container.start()
        assert json.loads(urunc("list", "--format=json").stdout) == [urunc.state(container.id)]
        urunc("update", "--pids-limit", "500", container.id)
        urunc("pause", container.id)
        assert container.status() == "paused"
        urunc("resume", container.id)
        assert (directory / "state.json").exists()
        assert not (directory / "container.json").exists()
        refused = urunc("delete", container.id, check=False)
        assert "container is running, not stopped" in refused.stderr
        urunc("kill", container.id, "KILL")
        container.wait_stopped()
        container.delete()


def test_ps(urunc: Urunc, bundle: Bundle) -> None:
    container = urunc.create(bundle)
    container.start()
    for words in (("--format", "json", container.id), (container.id, "-f", "json")):
        assert json.loads(urunc("ps", *words).stdout) == [container.pid]
    head, *lines = urunc("ps", container.id).stdout.splitlines()
    assert "PID" in head.split()
    assert [line.split()[1] for line in lines] == [str(container.pid)]
    head, *lines = urunc("ps", container.id, "-e", "-o", "pid,stat").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(container.pid)]
    assert urunc("ps", container.id, "--no-such-option", check=False).returncode == 1
    container.delete("--force")


def test_exec_is_refused_at_once(urunc: Urunc, bundle: Bundle) -> None:
    """Exit code 255 as where runc's exec fails, one line, and what to do instead."""
    container = urunc.create(bundle)
    container.start()
    for words in (
        ("exec", container.id, "/bin/sh"),
        ("exec", "-t", "--cwd", "/", "--user", "5:6", container.id, "ls", "-la"),
        ("exec", "--process", "/no/such/file", container.id),
    ):
        refused = urunc(*words, check=False)
        assert refused.returncode == 255
        assert len(refused.stderr.splitlines()) == 1
        assert "a unikernel has no processes" in refused.stderr
        assert "sidecar" in refused.stderr
    for verb in ("checkpoint", "restore"):
        where = ("--bundle", str(bundle.path)) if verb == "restore" else ()
        refused = urunc(verb, *where, container.id, check=False)
        assert refused.returncode == 1
        assert f"{verb}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    missing = urunc("exec", "no-such", "ls", check=False)
    assert (missing.returncode, "does not exist" in missing.stderr) == (255, True)
    container.delete("--force")


@pytest.mark.parametrize(
    "words",
    [
        ("start", "no-such"), ("state", "no-such"), ("kill", "no-such"), ("delete", "no-such"),
        ("ps", "no-such"), ("pause", "no-such"), ("resume", "no-such"), ("events", "no-such"),
        ("update", "--pids-limit", "5", "no-such"), ("checkpoint", "no-such"),
    ],
)  # fmt: skip
def test_a_container_that_is_not_there(urunc: Urunc, words: tuple[str, ...]) -> None:
    """Tools look for "does not exist", on standard error and in the log."""
    log = urunc.config.with_name("log")
    refused = urunc("--log", str(log), "--log-format", "json", *words, check=False)
    assert refused.returncode == 1
    assert "does not exist" in refused.stderr
    (entry,) = (json.loads(line) for line in log.read_text().splitlines())
    assert entry["level"] == "error"
    assert "does not exist" in entry["msg"]
    assert entry["time"]
    assert urunc("delete", "--force", "no-such").stdout == ""


def test_words_that_tools_look_for(urunc: Urunc, bundle: Bundle) -> None:
    container = urunc.create(bundle)
    again = urunc("create", "--bundle", str(bundle.path), container.id, check=False)
    assert "already exists" in again.stderr
    container.start()
    assert "container is running" in urunc("start", container.id, check=False).stderr
    assert "container is running" in urunc("delete", container.id, check=False).stderr
    urunc("kill", container.id, "9")
    container.wait_stopped()
    assert "container not running" in urunc("kill", container.id, check=False).stderr
    assert "container not running" in urunc("pause", container.id, check=False).stderr
    container.delete()


def test_options_stand_where_they_like(
    urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path
) -> None:
    """Before and after the id, with = and without."""
    identifier = urunc.new_id()
    pid_file = tmp_path / "pid"
    path = str(bundle.write())
    with (tmp_path / "console").open("wb") as out:
        words = ("create", identifier, "--bundle", path, f"--pid-file={pid_file}")
        subprocess.run(urunc.command(*words), check=True, stdout=out, stderr=out)
    assert int(pid_file.read_text()) == urunc.state(identifier)["pid"]
    urunc("delete", identifier, "--force")


def test_features(urunc: Urunc) -> None:
    """features.md, and true of this machine."""
    found = json.loads(urunc("features").stdout)
    assert found["ociVersionMin"] == "1.0.0"
    assert found["ociVersionMax"].startswith("1.")
    assert found["hooks"] == [
        "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
    ]  # fmt: skip
    linux = found["linux"]
    kinds = {"mount": "mnt", "network": "net"}
    for kind in linux["namespaces"]:
        assert os.path.exists(f"/proc/self/ns/{kinds.get(kind, kind)}"), kind
    last = int(pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert len(linux["capabilities"]) == last + 1
    assert linux["capabilities"][21] == "CAP_SYS_ADMIN"
    v1 = os.path.exists("/sys/fs/cgroup/memory/cgroup.procs")
    assert linux["cgroup"]["v1"] == v1
    assert linux["cgroup"]["systemd"] == os.path.exists("/run/systemd/system")
    assert linux["seccomp"]["enabled"]
    assert "SCMP_ACT_ERRNO" in linux["seccomp"]["actions"]
    assert linux["selinux"]["enabled"] == os.path.exists("/sys/fs/selinux/enforce")
    assert linux["intelRdt"] == {"enabled": False, "schemata": False, "monitoring": False}
    assert "com.urunc.unikernel." in found["potentiallyUnsafeConfigAnnotations"]


def test_help_and_version(urunc: Urunc) -> None:
    assert urunc("--version").stdout.startswith("urunc version ")
    overview = urunc("--help").stdout
    assert overview.startswith("NAME:\n")
    for line in overview.splitlines():
        assert len(line) <= 80
    from urunc.cli import VERBS

    for verb in VERBS:
        assert f"   {verb} " in overview
        text = urunc(verb, "--help").stdout
        assert text.startswith(f"NAME:\n   urunc {verb} - "), verb
        assert [line for line in text.splitlines() if len(line) > 80] == []
        assert text == urunc("help", verb).stdout
    missing = urunc("nonsense", "-h", check=False)
    assert missing.returncode == 1
    assert "No help topic for 'nonsense'" in missing.stderr


@pytest.mark.parametrize("door", ["on", "off"])
def test_delete_cannot_remove_all(urunc: Urunc, bundle: Bundle, door: str) -> None:
    """Something of somebody else's stays in the container's directory: it is a container then, not
    an id that is taken and does not exist."""
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        urunc("kill", container.id, "KILL")
        container.wait_stopped()
        kept = [urunc.root / container.id / name for name in ("a", "k", "z")]
        for place in kept:
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
        refused = urunc("delete", container.id, check=False, URUNC_DOOR=door)
        assert refused.returncode == 1
        assert "device or resource busy" in refused.stderr and "internal" not in refused.stderr
        assert f"remove '{urunc.root / container.id}/" in refused.stderr
        assert container.status() == "stopped"
        assert container.id in urunc("list", "-q").stdout
        for place in kept:
            subprocess.run(["umount", str(place)], check=True)
        urunc("delete", container.id, URUNC_DOOR=door)


def test_delete_in_every_state(urunc: Urunc, bundle: Bundle) -> None:
    """runtime.md, Delete: an error unless it is stopped; --force ends it first; twice is fine with
    --force and an error without."""
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        refused = urunc("delete", container.id, check=False)
        assert "container is created, not stopped" in refused.stderr
        container.delete("--force")
        container = urunc.create(bundle)
        urunc("pause", container.id)  # frozen before it ever ran
        assert container.status() == "paused"
        container.delete("--force")
        container = urunc.create(bundle)
        container.start()
        urunc("pause", container.id)
        container.delete("--force")
        container.delete("--force")
        assert urunc("delete", container.id, check=False).returncode == 1
