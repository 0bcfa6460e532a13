# SPDX-License-Identifier: Apache-2.0
"""Containers that start from a snapshot: the probe on Firecracker and QEMU, Linux on QEMU; and what
speaks against a snapshot, where each boots."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import time
from typing import Any

import pytest

from lib.patience import until
from lib.rooted import configure, linux
from lib.saves import MONITORS
from lib.support import Bundle, Network, ip, need, nothing_left
from lib.warm import READY, START, Warm, asking


@pytest.mark.parametrize("monitor", MONITORS)
def test_the_second_does_not_boot(
    warm: Warm, tmp_path: pathlib.Path, network: Network, monitor: str
) -> None:
    """It goes on from where the first one was ready, with its own id, streams and network, as a
    container like any other; two at once, and the first one goes on as well."""
    bundle = asking(tmp_path / "b", monitor, "probe.serve", "probe.exit=3")
    bundle.config["annotations"][READY] = "line:serving"
    network.connect()
    bundle.network(network.path)
    warm.saved(bundle)
    for _ in range(2):
        container = warm.start(bundle)
        assert warm.said("from the snapshot")
        container.event("beat")
        assert "cmdline" not in container.shown()
        assert network.udp(b"one") == b"one"
        warm.urunc("pause", container.id)
        warm.urunc("resume", container.id)
        assert network.udp(b"quit 3") == b"quit 3"
        container.wait_stopped()
        container.delete()
    (snapshot,) = warm.sealed()
    assert (snapshot / "uses").read_text() == "2"


@pytest.mark.parametrize("monitor", MONITORS)
def test_what_differs_boots(warm: Warm, tmp_path: pathlib.Path, monitor: str) -> None:
    """Other words, another memory, another ready mark: another key. Not asked: as ever."""
    bundle = asking(tmp_path / "b", monitor, "probe.hang")
    warm.saved(bundle)
    shown = warm.urunc("plan", "--bundle", str(bundle.path)).stdout
    assert "from a snapshot, if there is one of its key" in shown
    bundle.args("app", "probe.beat=20", "probe.hang", "other")
    warm.saved(bundle, 2)
    bundle.config["linux"]["resources"]["memory"]["limit"] += 4 << 20
    container = warm.start(bundle)
    assert warm.said("it boots")
    container.delete("--force")
    del bundle.config["annotations"][START]
    container = warm.start(bundle)
    assert not warm.log.read_text()
    container.delete("--force")


def test_a_line_through_a_pipe(warm: Warm, tmp_path: pathlib.Path) -> None:
    """QEMU's guest is heard although its output goes to somebody else; Firecracker's cannot be."""
    for monitor in ("qemu", "firecracker"):
        bundle = asking(tmp_path / monitor, monitor, "probe.burn=3000")
        words = warm.urunc.command("run", "--bundle", str(bundle.write()), warm.urunc.new_id())
        warm.log.write_text("")
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert b'"beat"' in process.stdout.read()
        assert process.returncode == 0
        expected = ": saved as" if monitor == "qemu" else "standard output is no file"
        assert warm.said(expected), warm.log.read_text()
    assert len(warm.sealed()) == 1


def test_the_verb(warm: Warm, tmp_path: pathlib.Path) -> None:
    """A snapshot is made ahead, shown, used, read to its end, and removed."""
    urunc = warm.urunc
    bundle = asking(tmp_path / "b", "qemu", "probe.hang")
    with nothing_left(urunc.root):
        done = urunc("snapshot", "warm", str(bundle.write()))
    key = done.stdout.splitlines()[-1]
    assert [path.name for path in warm.sealed()] == [key]
    assert "0 snapshots removed" in urunc("snapshot", "prune").stdout
    container = warm.start(bundle)
    assert warm.said("from the snapshot") and not urunc("snapshot", "list").stdout.count(
        "(damaged)"
    )
    container.delete("--force")
    (entry,) = json.loads(urunc("snapshot", "list", "--format", "json").stdout)
    assert (entry["key"], entry["hits"], entry["monitor"]) == (key, 1, "qemu")
    found = json.loads(urunc("snapshot", "inspect", key[:8], "--verify").stdout)
    assert found["manifest"]["guest"] == "unikraft" and found["bytes"] == entry["bytes"] > 0
    state = warm.path / key / "guest/state"
    with state.open("r+b") as file:
        file.write(b"x")
    done = urunc("snapshot", "inspect", key, "--verify", check=False)
    assert done.returncode == 1 and "not as they were written" in done.stderr
    assert f"removed {key}" in urunc("snapshot", "prune", "--all").stdout
    assert not warm.sealed()
    for words, text in (
        (("inspect", key), "there is none"),
        (("list", "--all"), "option '--all': only with prune"),
        (("show",), "show"),
        (("prune", "--unused-for", "x"), "is not a time"),
    ):
        done = urunc("snapshot", *words, check=False)
        assert done.returncode == 1 and text in done.stderr, done.stderr


Damage = Any
DAMAGE: dict[str, tuple[Damage, str]] = {
    "cut": (lambda guest, file: os.truncate(file, file.stat().st_size - 4096), "bytes are not"),
    "content": (lambda guest, file: file.open("r+b").write(b"x"), "not as they were written"),
    "gone": (lambda guest, file: file.unlink(), "no such file"),
    "manifest": (
        lambda guest, file: (guest / "manifest.json").write_text("{}"),
        "key 'schema' is missing",
    ),
    "mode": (lambda guest, file: file.chmod(0o666), "others may write to it"),
    "link": (
        lambda guest, file: (file.rename(guest.parent / "x"), file.symlink_to("../x")),
        "too many levels",
    ),
}


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_damaged_snapshot(warm: Warm, tmp_path: pathlib.Path, monitor: str) -> None:
    """The guest boots, with a warning; the snapshot is removed, and made again by the next."""
    bundle = asking(tmp_path / "b", monitor, "probe.hang")
    for damage, reason in DAMAGE.values():
        warm.saved(bundle)
        (snapshot,) = warm.sealed()
        damage(snapshot / "guest", snapshot / "guest" / "state")
        container = warm.start(bundle)
        assert warm.said("level=warning") and warm.said(reason), warm.log.read_text()
        assert warm.said("it is removed") and not snapshot.exists()
        container.event("beat")
        assert "cmdline" in container.shown()
        container.delete("--force")


def test_what_cannot_be(warm: Warm, tmp_path: pathlib.Path) -> None:
    """Each boots, and says why."""

    def boots(bundle: Bundle, *reasons: str) -> None:
        container = warm.start(bundle)
        container.event("beat")
        assert "cmdline" in container.shown() and not warm.sealed()
        assert all(map(warm.said, reasons)), warm.log.read_text()
        container.delete("--force")

    bundle = asking(tmp_path / "b", "qemu", "probe.hang", start="snapshot")
    boots(bundle, "nobody can give a unikraft guest new random numbers")
    shown = warm.urunc("plan", "--bundle", str(bundle.path)).stdout
    assert "boots: nobody can give" in shown
    bundle.config["annotations"][START] = "snapshot same-random"
    bundle.config["annotations"][READY] = "init"
    boots(bundle, "the ready mark is 'init'")
    del bundle.config["annotations"][READY]
    boots(bundle, "nothing says when the guest is ready")
    bundle.config["annotations"][READY] = "line:never said"
    warm.keys["start.wait_s"] = 1
    warm.configure()
    container = warm.start(bundle)
    until(lambda: warm.said("it was not ready within 1 s"), "nothing is said")
    until(lambda: len(list(warm.path.iterdir())) == 1, "the key's directory stays")
    container.delete("--force")
    bundle.config["annotations"][READY] = "line:beat"
    warm.path.chmod(0o755)
    boots(bundle, "others may enter it")
    warm.path.chmod(0o700)
    warm.keys["start.limit_mib"] = 8
    warm.configure()
    boots(bundle, "start.limit_mib")
    warm.keys["start.snapshots"] = "never"
    warm.configure()
    container = warm.start(bundle)
    container.event("beat")
    assert not warm.said("snapshot")
    container.delete("--force")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (START, "snapshots", "annotation 'start': 'snapshots'"),
        (START, "boot same-random", "annotation 'start'"),
        (START, "snapshot twice", "annotation 'start'"),
        (READY, "port:0", "'port:' takes a whole number from 1 to 65535"),
        (READY, "when it likes", "is no ready mark: line:TEXT, port:NUMBER"),
    ],
)
def test_annotations(warm: Warm, tmp_path: pathlib.Path, key: str, value: str, words: str) -> None:
    bundle = asking(tmp_path / "b", "qemu", "probe.hang")
    bundle.config["annotations"][key] = value
    done = warm.urunc("create", "--bundle", str(bundle.write()), warm.urunc.new_id(), check=False)
    assert done.returncode == 1 and words in done.stderr


@pytest.mark.parametrize("monitor", MONITORS)
def test_the_monitor_killed_while_it_is_saved(
    warm: Warm, tmp_path: pathlib.Path, monitor: str
) -> None:
    """Nothing of the snapshot stays."""
    bundle = asking(tmp_path / "b", monitor, "probe.hang")
    for _ in range(5):  # it may be saved before anybody has looked
        container = warm.start(bundle)
        until(lambda: list(warm.path.glob("*/.guest.*")) or warm.sealed(), "it is not being saved")
        if not warm.sealed():
            break
        container.delete("--force")
        warm.urunc("snapshot", "prune", "--all")
    os.kill(container.pid, signal.SIGKILL)
    container.wait_stopped()
    until(lambda: not list(warm.path.glob("?*[0-9a-f]/")), "something of it stays")
    container.delete("--force")


def test_linux(warm: Warm, tmp_path: pathlib.Path, network: Network) -> None:
    """From one snapshot: another host name, hardware address, address, hosts file, random numbers,
    and the time of day; the application and its memory are the first one's."""
    need("linux", "qemu", "images")
    configure(warm.urunc, "erofs", "ext4", **warm.keys)
    script = (
        "n=0; while :; do n=$((n+1)); echo $n $(hostname) $(cat /sys/class/net/eth0/address)"
        " $(tail -1 /etc/hosts) $(head -c 8 /dev/urandom | od -An -tx8) $(date +%s); sleep 1; done"
    )
    bundle = linux(tmp_path / "b", script, rootfs="erofs")
    bundle.config["annotations"] |= {START: "snapshot", READY: "init"}
    network.connect()
    bundle.network(network.path)
    bundle.config["hostname"] = "one"
    warm.saved(bundle)
    mac, bundle.config["hostname"] = "02:00:00:00:00:77", "two"
    ip("-n", network.inside, "link", "set", "eth0", "address", mac)
    ip("-n", network.inside, "addr", "flush", "dev", "eth0")
    network.inside_address = "10.123.0.7"
    ip("-n", network.inside, "addr", "add", "10.123.0.7/24", "dev", "eth0")
    ip("-n", network.inside, "route", "add", "default", "via", network.outside_address)
    seen = []
    for _ in range(2):
        with nothing_left(warm.urunc.root):
            container = warm.start(bundle)
            assert warm.said("from the snapshot")
            until(lambda: container.shown().count("\n") > 1, "it does not speak", 60)  # noqa: B023 (called in its own round)
            network.ping()
            words = container.shown().splitlines()[0].split()
            assert words[1:5] == ["two", mac, "10.123.0.7", "two"]
            assert abs(int(words[6]) - time.time()) < 60
            seen.append(words[5])
            container.delete("--force")
    assert len(set(seen)) == 2
