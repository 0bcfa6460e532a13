# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while a guest is saved or restored: a reason, a guest that goes on, and nothing
left."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from lib.patience import patient, until
from lib.saves import MONITORS, beating, goes_on, probe, restore, save
from lib.support import PREFIX, Bundle, Container, Network, Urunc, ip, nothing_left
from urunc.snapshot.files import digest

BEATS = ("probe.beat=50", "probe.hang")


@pytest.fixture(params=MONITORS)
def bundle(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Bundle:
    return probe(tmp_path / "b", request.param, *BEATS)


def refused(urunc: Urunc, *words: str) -> str:
    """One line of a verb that fails."""
    done = urunc(*words, check=False)
    assert done.returncode == 1, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_the_disk_is_full(urunc: Urunc, tmp_path: pathlib.Path, bundle: Bundle) -> None:
    small = tmp_path / "small"
    small.mkdir()
    # QEMU's stream of the probe has about 700 KiB, Firecracker's memory as much as the guest
    command = ["mount", "-t", "tmpfs", "-o", "size=400k,mode=700", "small", str(small)]
    subprocess.run(command, check=True)
    try:
        container = beating(urunc, bundle)
        with nothing_left(urunc.root, small):
            message = refused(urunc, "checkpoint", "--image-path", str(small), container.id)
            assert "no space left on device" in message
            goes_on(container)
        container.delete("--force")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_verb_is_killed(urunc: Urunc, tmp_path: pathlib.Path, bundle: Bundle) -> None:
    """Wherever it is: the guest goes on, and the half image is gone."""
    container = beating(urunc, bundle)
    image = tmp_path / "image"
    image.mkdir(mode=0o700)
    words = urunc.command("checkpoint", "--leave-running", "--image-path", str(image), container.id)
    with nothing_left(urunc.root, image):
        for delay_s in (0.04, 0.06, 0.08, 0.12):
            with subprocess.Popen(words) as verb:
                time.sleep(delay_s)
                verb.kill()
            urunc("pause", container.id)  # waits for the lock, which the guard has
            urunc("resume", container.id)
            goes_on(container)
            shutil.rmtree(image / "guest", ignore_errors=True)
    container.delete("--force")


def test_the_monitor_is_killed(urunc: Urunc, tmp_path: pathlib.Path, bundle: Bundle) -> None:
    """While it saves: the container has ended, and there is no image."""
    container = beating(urunc, bundle)
    image = tmp_path / "image"
    image.mkdir(mode=0o700)
    os.kill(container.pid, signal.SIGSTOP)
    words = urunc.command("checkpoint", "--image-path", str(image), container.id)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as verb:
        until(lambda: list(image.iterdir()))
        os.kill(container.pid, signal.SIGKILL)
        _, said = verb.communicate(timeout=patient(30))
    assert verb.returncode == 1
    assert "ended while it was saved" in said or "not running" in said
    assert list(image.iterdir()) == []
    container.wait_stopped()
    assert "is stopped" in refused(urunc, "checkpoint", container.id)
    container.delete()


def test_not_running(urunc: Urunc, tmp_path: pathlib.Path, bundle: Bundle) -> None:
    """A container that was not started, options that a guest cannot have, an id that is taken."""
    container = urunc.create(bundle)
    assert "is created, not running" in refused(urunc, "checkpoint", container.id)
    container.start()
    container.event("beat")
    for option in ("--pre-dump", "--lazy-pages", "--parent-path=../a", "--empty-ns=pid"):
        assert option.partition("=")[0] in refused(urunc, "checkpoint", option, container.id)
    image = tmp_path / "image"
    save(container, image, "--leave-running", "--tcp-established", "--empty-ns", "network")
    where = ("--bundle", str(bundle.path), "--image-path", str(image))
    with nothing_left(urunc.root, image):
        assert "already exists" in refused(urunc, "restore", *where, container.id)
        assert "--lsm-profile" in refused(urunc, "restore", *where, "--lsm-profile=x:y", "other")
        goes_on(container)
    container.delete("--force")


@pytest.fixture
def saved(
    urunc: Urunc, tmp_path: pathlib.Path, network: Network
) -> tuple[Bundle, pathlib.Path, Network]:
    """A bundle of a guest with a network, and its image."""
    bundle = probe(tmp_path / "b", "qemu", *BEATS)
    network.connect()
    bundle.network(network.path)
    save(beating(urunc, bundle), tmp_path / "image")
    return bundle, tmp_path / "image", network


def other_address(network: Network) -> None:
    ip("-n", network.inside, "addr", "flush", "dev", "eth0")
    ip("-n", network.inside, "addr", "add", "10.123.0.9/24", "dev", "eth0")


def no_network(network: Network) -> None:
    ip("-n", network.inside, "link", "del", "eth0")


def test_another_container(
    urunc: Urunc, saved: tuple[Bundle, pathlib.Path, Network], tmp_path: pathlib.Path
) -> None:
    """Another network, other arguments, memory, kernel, monitor, manifest: each is named, and
    nothing is made. What is as before is restored after all that."""
    bundle, image, network = saved
    where = ("--bundle", str(bundle.path), "--image-path", str(image), "one")
    config = json.dumps(bundle.config)
    unikernel = (bundle.root / "unikernel").read_bytes()
    manifest = (image / "guest/manifest.json").read_text()

    def change(key: str, value: Any) -> Callable[[], None]:
        def work() -> None:
            path = image / "guest/manifest.json"
            path.chmod(0o600)
            path.write_text(json.dumps({**json.loads(manifest), key: value}))

        return work

    changes: list[tuple[Callable[[], Any], str]] = [
        (lambda: bundle.args("app", "probe.beat=60"), "process.args"),
        (lambda: bundle.config["linux"]["resources"]["memory"].update(limit=160 << 20), "'-m'|M'"),
        (lambda: bundle.add("unikernel", unikernel + b"more"), "the guest's kernel"),
        (change("monitor", "firecracker"), "monitor: 'firecracker'"),
        (change("files", []), "'state': it was not saved"),
        (change("monitor_version", "1.2.3"), "version of qemu: '1.2.3'"),
        (change("processor", "another"), "processor: 'another'"),
        (change("features", "a" * 64), "other features"),
        (change("host_kernel", "2.6"), "kernel: '2.6'"),
        (change("architecture", "riscv"), "architecture"),
        (change("accelerator", "kvm"), "accelerator"),
        (change("guest", "linux"), "guest: 'linux'"),
        (change("machine", ["-m", "64M"]), "the machine would be another"),
        (change("interfaces", []), "0 interfaces, and there are 1"),
        (change("disks", [{"target": "/disk", "read_only": True, "kind": "free", "file": "",
                           "size_bytes": 1, "digest": ""}]), "other disks"),
        (change("files", [{"name": "state", "size_bytes": 5, "digest": "a" * 64}]), "5 that were"),
    ]  # fmt: skip
    for work, words in changes:
        work()
        bundle.write()
        with nothing_left(urunc.root, bundle.path):
            message = refused(urunc, "restore", "--detach", *where)
        assert any(word in message for word in words.split("|")), message
        bundle.config = json.loads(config)
        bundle.add("unikernel", unikernel)
        change("schema", 1)()
    bundle.write()
    again = restore(urunc, bundle, image, urunc.new_id())
    goes_on(again)
    again.delete("--force")
    for alter, words in ((other_address, "10.123.0.9/24"), (no_network, "there are 0 here")):
        alter(network)
        with nothing_left(urunc.root, bundle.path):
            assert words in refused(urunc, "restore", "--detach", *where)


def test_a_hostile_state(urunc: Urunc, tmp_path: pathlib.Path, bundle: Bundle) -> None:
    """Nonsense with the right digest: it is the monitor, in its own root, that refuses it."""
    container = beating(urunc, bundle)
    image = tmp_path / "image"
    save(container, image)
    state, manifest = image / "guest/state", image / "guest/manifest.json"
    where = ("--bundle", str(bundle.path), "--image-path", str(image))
    for content in (b"", state.read_bytes()[: 10 << 10], os.urandom(100 << 10)):
        for path in (state, manifest):
            path.chmod(0o644)
        state.write_bytes(content)
        values = json.loads(manifest.read_text())
        with state.open("rb") as file:
            found = digest(file.fileno(), len(content))
        (item,) = (item for item in values["files"] if item["name"] == "state")
        item |= {"size_bytes": len(content), "digest": found}
        manifest.write_text(json.dumps(values))
        with nothing_left(urunc.root, bundle.path):
            done = urunc("restore", "--detach", *where, urunc.new_id(), check=False)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert "ended: its console has the reason" in last or "Load snapshot" in last, last


def test_two_at_once(urunc: Urunc, tmp_path: pathlib.Path, bundle: Bundle) -> None:
    container = beating(urunc, bundle)
    image = tmp_path / "image"
    save(container, image)
    names = [urunc.new_id(), urunc.new_id()]
    consoles = [tmp_path / name for name in names]
    where = ("--bundle", str(bundle.path), "--image-path", str(image))
    verbs = [
        subprocess.Popen(
            urunc.command("restore", "--detach", *where, name), stdin=subprocess.DEVNULL,
            stdout=console.open("wb"), stderr=subprocess.STDOUT,
        )
        for name, console in zip(names, consoles, strict=True)
    ]  # fmt: skip
    for verb in verbs:
        assert verb.wait(patient(60)) == 0
    for name, console in zip(names, consoles, strict=True):
        made = Container(urunc, name, console)
        goes_on(made)
        made.delete("--force")


def test_a_disk_of_the_image(urunc: Urunc, tmp_path: pathlib.Path, bundle: Bundle) -> None:
    """It is put back into the bundle, by a new file; a restore that fails leaves what is there."""
    disk = bundle.root / "disk"
    bundle.config["annotations"] |= {f"{PREFIX}unikernelType": "linux", f"{PREFIX}block": "/disk"}
    bundle.add("disk", b"saved".ljust(4096))
    container = beating(urunc, bundle)
    image = tmp_path / "image"
    manifest = save(container, image)
    assert [(item["kind"], item["file"]) for item in manifest["disks"]] == [("saved", "disk-0")]
    disk.write_bytes(b"later".ljust(4096))
    hook = {"path": "/bin/false", "args": ["false"]}
    bundle.config["hooks"] = {"createRuntime": [hook]}
    bundle.write()
    where = ("--bundle", str(bundle.path), "--image-path", str(image))
    with nothing_left(urunc.root, bundle.path):
        assert "hook" in refused(urunc, "restore", "--detach", *where, urunc.new_id())
    assert disk.read_bytes() == b"later".ljust(4096)
    killing = ["sh", "-c", "kill -KILL $PPID"]
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": killing}]}
    bundle.write()
    cut = urunc.new_id()
    assert urunc("restore", "--detach", *where, cut, check=False).returncode == -signal.SIGKILL
    until(lambda: disk.read_bytes() == b"later".ljust(4096))
    urunc("delete", "--force", cut)
    bundle.config["hooks"] = {}
    bundle.write()
    with disk.open("rb") as used:
        again = restore(urunc, bundle, image, urunc.new_id())
        assert used.read() == b"later".ljust(4096)
    goes_on(again)
    again.delete("--force")
    assert disk.read_bytes() == b"saved".ljust(4096)
    assert sorted(path.name for path in bundle.root.iterdir()) == ["disk", "unikernel"]
