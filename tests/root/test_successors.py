# SPDX-License-Identifier: Apache-2.0
"""Verbs that fail or are killed in the middle, and containers that stop and stay, in a namespace
that others use, too: what is in the way is taken back, and never what is another's."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

import pytest

from lib.network_state import network_unchanged
from lib.patience import until
from lib.support import PARTS, PREFIX, Bundle, Container, Network, Urunc, ip, need, nothing_left
from urunc.config import load as load_config
from urunc.lifecycle import start as verbs
from urunc.plan import realize

READ_ONLY = 'mount -o bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"'


@pytest.fixture
def pod(network: Network) -> Network:
    """The container's namespace, connected."""
    need("nft")
    connect(network)
    return network


def connect(pod: Network) -> None:
    """An interface, once the kernel has done all that it does for one."""
    pod.connect()

    def shown() -> str:
        return ip("-n", pod.inside, "addr", "show", "eth0")

    until(lambda: "NO-CARRIER" not in shown() and "fe80" in shown(), shown)


@pytest.fixture
def bundle(tmp_path: pathlib.Path, network: Network) -> Bundle:
    """The probe as a MirageOS guest on Solo5's spt, which declares one network device."""
    return mirage(tmp_path / "b", network)


def mirage(path: pathlib.Path, pod: Network, **annotations: str) -> Bundle:
    need("solo5", "probe")
    made = Bundle(path, "mirage", "spt", block="/disk.img", **annotations)
    made.add("unikernel", PARTS / "probe-mirage.spt")
    made.add("disk.img", bytes(512))
    made.args("probe.hang")
    made.network(pod.path)
    return made


def resolver(bundle: Bundle, server: str) -> None:
    """A resolv.conf, which may change once it is mounted."""
    source = bundle.path / "resolv.conf"
    source.write_text(f"nameserver {server}\n")
    bundle.config["mounts"] = [
        {"destination": "/etc/resolv.conf", "type": "bind", "source": str(source)}
    ]


def inside(namespace: str, *words: str) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", namespace, *words], check=True, capture_output=True, text=True
    ).stdout


def redirects(namespace: str) -> str:
    return inside(namespace, "tc", "filter", "show", "dev", "eth0", "ingress")


def journal(container: Container) -> list[dict[str, object]]:
    lines = (container.urunc.root / container.id / "journal").read_text().splitlines()
    return [json.loads(line) for line in lines]


def kinds(container: Container) -> set[object]:
    return {entry["kind"] for entry in journal(container)}


def stopped(urunc: Urunc, bundle: Bundle) -> Container:
    """A container that was started, killed and not deleted."""
    container = urunc.create(bundle)
    container.start()
    container.report()
    urunc("kill", container.id, "KILL")
    container.wait_stopped()
    return container


@contextlib.contextmanager
def kept(pod: Network) -> Iterator[str]:
    """The namespace by a second name."""
    name = f"{pod.inside}-kept"
    path = pathlib.Path(f"/run/netns/{name}")
    path.touch()
    subprocess.run(["mount", "--bind", pod.path, str(path)], check=True)
    try:
        yield name
    finally:
        subprocess.run(["umount", str(path)], check=True)
        path.unlink()


@pytest.mark.parametrize("mode", ["dynamic", "pod", "shared"])
def test_start_fails_and_is_repeated(
    urunc: Urunc, bundle: Bundle, network: Network, mode: str
) -> None:
    """What it had made by then is taken back; what `create` made stays."""
    need("nft")
    bundle.config["annotations"][f"{PREFIX}network"] = mode
    resolver(bundle, "10.0.0.1")
    if mode != "dynamic":
        connect(network)
    with nothing_left(urunc.root):
        with network_unchanged(network.path) if mode != "dynamic" else contextlib.nullcontext():
            container = urunc.create(bundle)
            before = journal(container)
            if mode == "dynamic":
                connect(network)
            resolver(bundle, "127.0.0.11")
            urunc.prefix = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh"]
            for _ in range(2):
                failed = urunc("start", container.id, check=False)
                assert failed.returncode == 1
                assert "set sysctl" in failed.stderr
                assert journal(container) == before
                assert "tap0_urunc" in ip("-n", network.inside, "link")
            urunc.prefix = []
            if mode == "dynamic":
                assert redirects(network.inside) == ""
            assert container.status() == "created"
            container.start()
            container.report()
            container.delete("--force")
        assert "ingress" not in inside(network.inside, "tc", "qdisc")
        assert "tap" not in ip("-n", network.inside, "link")
        if mode == "dynamic":
            ip("-n", network.inside, "link", "del", "eth0")


def test_start_is_killed_and_repeated(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """Between what it made and the word of it in container.json."""
    need("nft")
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        before = journal(container)
        connect(network)
        child = os.fork()
        if not child:
            # this process is for this alone
            vars(realize)["realize"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            verbs.start(str(urunc.root), container.id, load_config(str(urunc.config)))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert len(journal(container)) > len(before)
        assert "tap0_urunc" in redirects(network.inside)
        container.start()
        assert container.report()["cmdline"]
        assert len(journal(container)) > len(before)
        container.delete("--force")
        assert "ingress" not in inside(network.inside, "tc", "qdisc")
        ip("-n", network.inside, "link", "del", "eth0")


def test_delete_is_killed_in_a_hook(
    urunc: Urunc, bundle: Bundle, pod: Network, tmp_path: pathlib.Path
) -> None:
    """Repeated, it leaves alone what is another container's by then, by the same names."""
    mark = tmp_path / "hooked"
    script = f"[ -e {mark} ] || {{ echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 60; }}"
    bundle.config["hooks"] = {
        "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
    }
    with nothing_left(urunc.root), network_unchanged(pod.path):
        first = urunc.create(bundle)
        deletion = subprocess.Popen(urunc.command("delete", "--force", first.id))
        until(mark.exists)
        deletion.kill()
        deletion.wait()
        os.kill(int(mark.read_text()), 9)
        second = urunc.create(mirage(tmp_path / "second", pod))
        second.start()
        first.delete("--force")
        assert "tap0_urunc" in ip("-n", pod.inside, "link")
        assert "tap0_urunc" in redirects(pod.inside)
        second.delete("--force")


def test_path_leads_elsewhere_before_start(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """The guest gets what is in the namespace that its init is in; `delete` finds it there."""
    need("nft")
    other = Network()
    try:
        connect(other)
        with kept(network) as name, network_unchanged(other.path):
            container = urunc.create(bundle)
            connect(network)
            subprocess.run(["umount", network.path], check=True)
            subprocess.run(["mount", "--bind", other.path, network.path], check=True)
            container.start()
            container.report()
            assert "tap0_urunc" in redirects(name)
            container.delete("--force")
            assert "ingress" not in inside(name, "tc", "qdisc")
            assert "tap" not in ip("-n", name, "link")
            assert not (urunc.root / container.id).exists()
    finally:
        other.remove()


def test_path_is_gone_before_start(urunc: Urunc, bundle: Bundle, pod: Network) -> None:
    """Its init is in there still."""
    with kept(pod) as name:
        container = urunc.create(bundle)
        ip("-n", pod.inside, "link", "set", "eth0", "mtu", "1400")
        ip("netns", "del", pod.inside)
        container.start()
        container.report()
        assert "mtu 1400" in ip("-n", name, "link", "show", "tap0_urunc")
        container.delete("--force")
        assert "tap" not in ip("-n", name, "link")
        assert "ingress" not in inside(name, "tc", "qdisc")
        assert not (urunc.root / container.id).exists()


@pytest.mark.parametrize("before", ["dynamic", "pod", "shared"])
@pytest.mark.parametrize("after", ["dynamic", "pod", "shared"])
def test_successor(
    urunc: Urunc, pod: Network, tmp_path: pathlib.Path, before: str, after: str
) -> None:
    """A pod's container that stopped is not in the way of the next."""
    bundles = [
        mirage(tmp_path / str(number), pod, network=mode, **ports)
        for number, (mode, ports) in enumerate(
            (mode, {"ports": "80"} if mode == "shared" else {}) for mode in (before, after)
        )
    ]
    with nothing_left(urunc.root), network_unchanged(pod.path):
        first = stopped(urunc, bundles[0])
        second = stopped(urunc, bundles[1])
        if {before, after} != {"pod", "shared"}:  # these two have ports of their own
            assert kinds(first) == {"user", "cgroups", "owner"} & kinds(second)
        third = urunc.create(bundles[1])
        third.start()
        for old in (first, second):
            assert old.status() == "stopped"
            old.delete()
        assert "tap" in ip("-n", pod.inside, "link")
        if after == "dynamic":
            assert "Redirect" in redirects(pod.inside)
        third.report()
        third.delete("--force")


def test_successor_by_start(
    urunc: Urunc, bundle: Bundle, network: Network, tmp_path: pathlib.Path
) -> None:
    """The interface came after both were created."""
    need("nft")
    with nothing_left(urunc.root):
        first, second = urunc.create(bundle), urunc.create(mirage(tmp_path / "second", network))
        connect(network)
        first.start()
        urunc("kill", first.id, "KILL")
        first.wait_stopped()
        second.start()
        second.report()
        first.delete()
        assert "tap1_urunc" in redirects(network.inside)
        second.delete("--force")
        assert "tap" not in ip("-n", network.inside, "link")
        ip("-n", network.inside, "link", "del", "eth0")


@pytest.mark.parametrize("why", ["runs", "locked", "a living one has it"])
def test_no_successor(
    urunc: Urunc, bundle: Bundle, pod: Network, tmp_path: pathlib.Path, why: str
) -> None:
    """One that runs is left alone, one that a verb works on, and what is not its own any more."""
    late = mirage(tmp_path / "late", pod)
    held = -1
    with nothing_left(urunc.root), network_unchanged(pod.path):
        if why == "locked":
            first = stopped(urunc, bundle)
            held = os.open(urunc.root / first.id, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
        else:
            old = stopped(urunc, bundle)
            first = urunc.create(bundle)
            first.start()
            first.report()
            if why == "a living one has it":
                lines = (urunc.root / first.id / "journal").read_text().splitlines(keepends=True)
                ours = [line for line in lines if '"inode"' in line and '"namespace"' in line]
                with (urunc.root / old.id / "journal").open("a") as out:
                    out.writelines(ours)
        recorded = journal(first)
        refused = urunc("create", "--bundle", str(late.write()), urunc.new_id(), check=False)
        assert refused.returncode == 1
        assert "another guest has taken it over" in refused.stderr
        assert "tap0_urunc" in redirects(pod.inside)
        assert journal(first) == recorded
        if why == "locked":
            os.close(held)
        first.delete("--force")
        if why != "locked":
            old.delete()
