# SPDX-License-Identifier: Apache-2.0
"""One container's life: status from the kernel, the second look, hooks, isolation, verbs at the
same time."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time

import pytest

from lib.busybox import BUSYBOX
from lib.patience import patient
from lib.support import PARTS, Bundle, Network, Urunc, ip, need, nothing_left


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Bundle:
    """The probe on QEMU's own code generator: no KVM needed."""
    need("qemu", "probe")
    made = Bundle(tmp_path / "b", "unikraft", "qemu", accelerator="tcg")
    made.add("unikernel", PARTS / "probe.pvh")
    made.args("app", "probe.hang")
    return made


def status_file(pid: int) -> dict[str, str]:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_life(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    pid_file = tmp_path / "pid"
    with nothing_left(urunc.root):
        container = urunc.create(bundle, "--pid-file", str(pid_file))
        assert int(pid_file.read_text()) == container.pid
        state = urunc.state(container.id)
        assert state["status"] == "created"
        assert state["bundle"] == str(bundle.path)
        assert state["annotations"] == bundle.config["annotations"]
        assert set(state) == {"ociVersion", "id", "status", "pid", "bundle", "annotations"}
        (listed,) = json.loads(urunc("list", "--format", "json").stdout)
        assert (listed["id"], listed["status"]) == (container.id, "created")
        assert urunc("list", "--quiet").stdout == f"{container.id}\n"
        container.start()
        assert container.status() == "running"
        urunc("kill", container.id, "WINCH")  # means nothing to a guest, and must not hurt it
        urunc("kill", container.id, "USR1")
        assert container.status() == "running"
        urunc("kill", container.id)
        container.wait_stopped()
        container.delete()
        pid_file.unlink()


def test_plan_changes_nothing(urunc: Urunc, bundle: Bundle) -> None:
    """What a bundle would become, and with `--id` what a container was given."""
    path = str(bundle.write())
    urunc("plan", "--bundle", path)  # fills the cache of what is known of QEMU
    with nothing_left(urunc.root, bundle.path):
        text = urunc("plan", "--bundle", path).stdout
    assert "accelerator: tcg (asked for by annotation)" in text
    assert "  -kernel /guest/unikernel\n" in text
    assert "user 2000000000:2000000000, no capabilities" in text
    assert max(map(len, text.split("steps:")[0].splitlines())) <= 100
    container = urunc.create(bundle)
    document = json.loads(
        urunc("plan", "--bundle", path, "--id", container.id, "--format", "json").stdout
    )
    recorded = json.loads((urunc.root / container.id / "container.json").read_text())
    assert document["launch"] == recorded["launch"]
    container.delete("--force")


def test_recorded_state(urunc: Urunc, bundle: Bundle) -> None:
    """The state says its schema and its boot; a process of another boot is not this container's."""
    container = urunc.create(bundle)
    path = urunc.root / container.id / "container.json"
    data = json.loads(path.read_text())
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (data["schema"], data["bootId"]) == (4, boot)
    path.write_text(json.dumps(data | {"bootId": "another"}))
    assert container.status() == "stopped"
    path.write_text(json.dumps(data | {"schema": 99}))
    refused = urunc("state", container.id, check=False)
    assert refused.returncode == 1
    assert "schema 99" in refused.stderr
    path.write_text(json.dumps(data))
    container.delete("--force")


def test_isolation(urunc: Urunc, bundle: Bundle) -> None:
    """The monitor's root, user, capabilities, filter, descriptors and signals, looked at from
    outside."""
    first = urunc.create(bundle)
    second = urunc.create(bundle)
    first.start()
    first.wait_for('"cmdline"')
    facts = status_file(first.pid)
    uid = int(facts["Uid"].split()[0])
    assert 2_000_000_000 <= uid < 2_000_065_536
    assert uid != int(status_file(second.pid)["Uid"].split()[0])
    assert facts["Groups"] == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[name], 16) == 0, name
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    assert int(facts["SigIgn"], 16) & ~(1 << 12) == 0  # QEMU itself ignores SIGPIPE
    root = pathlib.Path(f"/proc/{first.pid}/root")
    # where /lib is a link into /usr, no library's path need begin with it
    assert sorted({item.name for item in root.iterdir()} | {"lib"}) == sorted(
        {"dev", "etc", "guest", "lib", "lib64", "run", "usr"}
    )
    assert sorted(str(item.relative_to(root)) for item in (root / "dev").rglob("*")) == [
        "dev/net",
        "dev/net/tun",
    ]
    mounts = pathlib.Path(f"/proc/{first.pid}/mountinfo").read_text().splitlines()
    for line in mounts:
        target, options = line.split()[4], line.split()[5].split(",")
        assert target == "/run" or "ro" in options, line
        assert "nosuid" in options, line
        assert target == "/dev" or "nodev" in options, line
    for kind in ("pid", "net", "mnt", "ipc", "uts"):
        assert os.readlink(f"/proc/{first.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    for entry in pathlib.Path(f"/proc/{first.pid}/fd").iterdir():
        target = os.readlink(entry)
        assert int(entry.name) < 3 or target.startswith(
            ("socket:", "anon_inode:", "/run/", "/dev/")
        ), target
    waiting = pathlib.Path(f"/proc/{second.pid}/fd")
    held = sorted(os.readlink(entry) for entry in waiting.iterdir() if int(entry.name) > 2)
    assert [item.rpartition("/")[2] for item in held] == ["start", "started"]
    first.delete("--force")
    second.delete("--force")


def test_second_look(
    urunc: Urunc, bundle: Bundle, network: Network, tmp_path: pathlib.Path
) -> None:
    """An interface and a resolver that arrive between create and start are the guest's."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("")
    bundle.args("app", "probe.serve=30000")
    bundle.network(network.path)
    bundle.config["mounts"] = [
        {"destination": "/etc/resolv.conf", "type": "bind", "source": str(resolver)}
    ]
    container = urunc.create(bundle)
    network.connect("net1", mtu=1400)
    resolver.write_text("nameserver 10.123.0.9\n")
    container.start()
    report = container.report()
    assert "netdev.ip=10.123.0.2/24:10.123.0.1:10.123.0.9" in report["cmdline"]
    assert len(report["nics"]) == 1
    container.wait_for('"serving"')
    network.ping()
    assert "mtu 1400" in ip("-n", network.inside, "-o", "link", "show", "tap0_urunc")
    urunc("kill", container.id, "KILL")
    container.wait_stopped()
    assert "tap0_urunc" in ip(
        "-n", network.inside, "link"
    )  # the namespace is kept: delete takes it back
    container.delete()
    assert "tap0_urunc" not in ip("-n", network.inside, "link")
    shown = subprocess.run(
        ["tc", "-n", network.inside, "qdisc"], capture_output=True, text=True
    ).stdout
    assert "ingress" not in shown


def test_second_guest_on_an_interface(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """One guest at a time takes an interface over; the second is told so, and the first keeps
    it."""
    network.connect()
    bundle.args("app", "probe.serve=30000")
    bundle.network(network.path)
    first = urunc.create(bundle)
    first.start()
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.path), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert "another guest has taken it over" in refused.stderr
    first.wait_for('"serving"')
    network.ping()
    first.delete("--force")


def test_unreadable_state(urunc: Urunc, bundle: Bundle) -> None:
    """delete --force needs the journal alone."""
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        (urunc.root / container.id / "container.json").write_text("{")
        refused = urunc("delete", container.id, check=False)
        assert refused.returncode == 1
        assert "--force" in refused.stderr
        container.delete("--force")


def test_cgroup_namespace(urunc: Urunc, bundle: Bundle) -> None:
    """A new cgroup namespace has the container's own groups as its root."""
    bundle.config["linux"]["namespaces"].append({"type": "cgroup"})
    container = urunc.create(bundle)
    container.start()
    shown = subprocess.run(
        ["nsenter", "-t", str(container.pid), "-C", "cat", f"/proc/{container.pid}/cgroup"],
        capture_output=True,
        text=True,
    ).stdout
    assert shown
    assert all(line.endswith(":/") for line in shown.splitlines()), shown
    container.delete("--force")


def test_interface_that_left(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """An interface that went between create and start is not the guest's."""
    network.connect()
    bundle.network(network.path)
    container = urunc.create(bundle)
    ip("-n", network.inside, "link", "del", "eth0")
    container.start()
    report = container.report()
    assert report["nics"] == []
    assert "netdev.ip" not in report["cmdline"]
    container.delete("--force")
    assert "tap0_urunc" not in ip("-n", network.inside, "link")


def test_start_lets_go_at_once(urunc: Urunc, bundle: Bundle) -> None:
    """From the FIFO's opening (TS13) to the monitor's execve (TS18): 2 ms, in the best of five;
    more where the processor is slow."""
    took_ms = []
    for _ in range(5):
        container = urunc.create(bundle, URUNC_TIMESTAMPS="1")
        container.start(URUNC_TIMESTAMPS="1")
        stamps = {}
        for line in urunc.stamps.read_text().splitlines():
            entry = json.loads(line)
            if entry["containerID"] == container.id:
                stamps[entry["timestampID"]] = entry["timestampNS"]
        took_ms.append((stamps["TS18"] - stamps["TS13"]) / 1e6)
        container.delete("--force")
    assert min(took_ms) < patient(2), took_ms
    assert set(stamps) == {f"TS{number:02}" for number in range(19)}
    assert "TS18 execve of the monitor" in urunc("timeline", "--file", str(urunc.stamps)).stdout


def test_hooks(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """Each kind in its order, with the state on standard input; startContainer's in the image's
    root."""
    need("busybox")
    log = tmp_path / "hooks"
    bundle.add("bin/busybox", BUSYBOX)

    def hook(kind: str) -> dict[str, object]:
        script = f'read -r line; echo {kind} "$line" >>{log}'
        return {"path": "/bin/sh", "args": ["sh", "-c", script]}

    kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    bundle.config["hooks"] = {kind: [hook(kind)] for kind in kinds}
    bundle.config["hooks"]["startContainer"] = [
        {
            "path": "/bin/busybox",
            "args": ["sh", "-c", "busybox cat >/started"],
            "env": ["PATH=/bin"],
        }
    ]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        assert not (bundle.root / "started").exists()
        container.start()
        started = json.loads((bundle.root / "started").read_text())
        assert (started["id"], started["status"]) == (container.id, "created")
        container.delete("--force")
        lines = log.read_text().splitlines()
        (bundle.root / "started").unlink()
        log.unlink()
    assert [line.split()[0] for line in lines] == kinds
    statuses = [json.loads(line.partition(" ")[2])["status"] for line in lines]
    assert statuses == ["creating", "creating", "creating", "running", "stopped"]


def test_failing_start_hook(urunc: Urunc, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"startContainer": [{"path": "/no-such-program"}]}
    container = urunc.create(bundle)
    refused = urunc("start", container.id, check=False)
    assert refused.returncode == 1
    assert "startContainer[0]" in refused.stderr
    container.wait_stopped()
    container.delete()


def test_verbs_at_the_same_time(urunc: Urunc, bundle: Bundle) -> None:
    """create beside create and delete, kill beside start: one wins, the others say why, nothing is
    left."""
    path = str(bundle.write())
    with nothing_left(urunc.root):
        for turn in range(4):
            identifier = urunc.new_id()
            creates = [
                subprocess.Popen(
                    urunc.command("create", "--bundle", path, identifier),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for _ in range(2)
            ]
            time.sleep(0.02 * turn)
            urunc("delete", "--force", identifier, check=False)
            codes = sorted(create.wait(patient(30)) for create in creates)
            assert codes in ([0, 0], [0, 1], [1, 1])
            urunc("delete", "--force", identifier, check=False)
        for turn in range(4):
            container = urunc.create(bundle)
            start = subprocess.Popen(
                urunc.command("start", container.id), stderr=subprocess.DEVNULL
            )
            time.sleep(0.005 * turn)
            urunc("kill", container.id, "KILL", check=False)
            start.wait(patient(30))
            urunc("kill", container.id, "KILL", check=False)
            container.wait_stopped()
            container.delete()


def test_killed_create_is_deleted(urunc: Urunc, bundle: Bundle) -> None:
    """A create that dies in a hook leaves a journal, by which delete takes all back."""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "30"]}]}
    identifier = urunc.new_id()
    with nothing_left(urunc.root):
        create = subprocess.Popen(
            urunc.command("create", "--bundle", str(bundle.write()), identifier),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(200):
            path = urunc.root / identifier / "container.json"
            if (
                path.exists()
                and pathlib.Path(f"/proc/{create.pid}/task/{create.pid}/children")
                .read_text()
                .count(" ")
                > 1
            ):
                break
            time.sleep(0.01)
        assert urunc.state(identifier)["status"] == "creating"
        os.killpg(create.pid, 9)
        create.wait()
        assert urunc.state(identifier)["status"] == "stopped"
        urunc("delete", identifier)


def test_limits_are_enforced(urunc: Urunc, bundle: Bundle) -> None:
    """The monitor is in control groups of its own, with the limits."""
    bundle.config["linux"]["resources"]["pids"] = {"limit": 64}
    bundle.config["linux"]["cgroupsPath"] = "/urunc-test/one"
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        groups = pathlib.Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()
        assert groups
        assert all(line.endswith(":/urunc-test/one") for line in groups)
        limits = [
            pathlib.Path(directory) / "urunc-test/one/pids.max"
            for directory in ("/sys/fs/cgroup", "/sys/fs/cgroup/pids")
        ]
        assert [path.read_text().strip() for path in limits if path.exists()] == [
            str(64 + container.plan()["tasks"])
        ]
        container.delete("--force")
