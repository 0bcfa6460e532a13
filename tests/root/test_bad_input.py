# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear error that says what and where, exit code 1, and a kernel that holds what it
held."""

from __future__ import annotations

import json
import os
import pathlib
import re
import struct
import subprocess
from collections.abc import Callable

import pytest

from lib.made import elf
from lib.patience import patient
from lib.support import PARTS, PREFIX, Bundle, Urunc, need, nothing_left

Change = Callable[[Bundle], object]


def solo5_notes(target: int, *devices: tuple[str, int]) -> bytes:
    """ABI1 and MFT1 notes of a Solo5 guest; a device's type is 1 (block) or 2 (net)."""
    abi = struct.pack("<IIII", target, 2, 0, 0)
    entries = struct.pack("<68sI32x", b"", 1 << 30)
    for name, kind in devices:
        entries += struct.pack("<68sI32x", name.encode(), kind)
    manifest = bytes(4) + struct.pack("<II", 1, len(devices) + 1) + entries
    notes = b""
    for kind, content in ((0x31494241, abi), (0x3154464D, manifest)):
        notes += struct.pack("<III8s", 6, len(content), kind, b"Solo5\0") + content
        notes += bytes(-len(notes) % 4)
    return notes


def annotation(key: str, value: str | None) -> Change:
    def change(bundle: Bundle) -> None:
        if value is None:
            del bundle.config["annotations"][PREFIX + key]
        else:
            bundle.config["annotations"][PREFIX + key] = value

    return change


def setting(path: str, value: object) -> Change:
    def change(bundle: Bundle) -> None:
        at = bundle.config
        *directories, last = path.split(".")
        for name in directories:
            at = at[name]
        at[last] = value

    return change


def both(*changes: Change) -> Change:
    return lambda bundle: [change(bundle) for change in changes]


def with_disk(change: Change) -> Change:
    return both(change, annotation("block", "/disk"), lambda b: b.add("disk", bytes(512)))


def link(target: str) -> Change:
    def change(bundle: Bundle) -> None:
        (bundle.root / "unikernel").unlink()
        (bundle.root / "unikernel").symlink_to(target)

    return change


def kernel_file(content: bytes) -> Change:
    return lambda bundle: bundle.add("unikernel", content)


def on_solo5(guest: str, monitor: str, content: bytes) -> Change:
    def change(bundle: Bundle) -> None:
        annotation("unikernelType", guest)(bundle)
        annotation("hypervisor", monitor)(bundle)
        bundle.add("unikernel", content)

    return change


def broken_hook(kind: str) -> Change:
    return setting(
        "hooks", {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"]}]}
    )


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "args of the wrong type": (
        setting("process.args", "a b"),
        ("process.args", "expected an array"),
    ),
    "an argument of the wrong type": (
        setting("process.args", ["a", 1]),
        ("process.args[1]", "string"),
    ),
    "no process": (setting("process", None), ("process: missing",)),
    "an empty root path": (setting("root.path", ""), ("root.path: empty",)),
    "another version": (setting("ociVersion", "2.0.0"), ("ociVersion", "2.0.0")),
    "an unknown namespace": (
        setting("linux.namespaces", [{"type": "net"}]),
        ("linux.namespaces[0].type", "'net'", "network"),
    ),
    "an unknown guest": (annotation("unikernelType", "beos"), ("beos", "rumprun", "unikraft")),
    "an unknown monitor": (annotation("hypervisor", "bochs"), ("bochs", "firecracker", "qemu")),
    "no guest type": (annotation("unikernelType", None), ("unikernelType", "missing")),
    "an empty binary": (annotation("binary", ""), ("binary", "empty")),
    "a guest that the monitor does not run": (
        annotation("unikernelType", "rumprun"),
        ("rumprun does not run on qemu", "hvt, spt"),
    ),
    "no unikernel file": (annotation("binary", "/nothing"), ("/nothing", "no such file")),
    "disks that are none, and no mounts": (annotation("disks", "%"), ("'disks': '%' is no disk",)),
    "disks without mounts": (annotation("disks", "a=/a"), ("'disks'", "declares no block device")),
    "volumes, and no mounts": (annotation("volumes", "all"), ("'volumes': 'all' is unknown",)),
    "a size of no disk": (annotation("rootfsSize", "64"), ("'rootfsSize': the container's root",)),
    "a form of nothing": (annotation("rootfs", "ntfs"), ("'rootfs': 'ntfs' is unknown", "ext4")),
    "a path out of the root": (annotation("binary", "../../etc/passwd"), ("leads out",)),
    "a link out of the root": (link("/etc/passwd"), ("'/unikernel'", "no such file", "inside")),
    "a link up and out of the root": (link("../../../../etc/passwd"), ("no such file",)),
    "a directory as unikernel": (annotation("binary", "/"), ("not a regular file",)),
    "a device as unikernel": (
        both(annotation("binary", "/null"), lambda b: os.mknod(b.root / "null", 0o20666, 0x103)),
        ("not a regular file",),
    ),
    "a script as unikernel": (kernel_file(b"#!/bin/sh\n"), ("neither an ELF file",)),
    "an ELF for another machine": (kernel_file(elf(machine=183)), ("aarch64", "x86_64")),
    "a damaged ELF": (kernel_file(elf(solo5_notes(1))[:70]), ("damaged ELF",)),
    "a Solo5 guest on QEMU": (kernel_file(elf(solo5_notes(1))), ("Solo5's hvt", "qemu")),
    "a Solo5 guest for the other target": (
        on_solo5("mirage", "spt", elf(solo5_notes(1))),
        ("Solo5's hvt", "spt"),
    ),
    "no Solo5 guest on a tender": (on_solo5("mirage", "spt", elf()), ("not built for Solo5",)),
    "a declared disk that is not given": (
        on_solo5("rumprun", "spt", elf(solo5_notes(2, ("rootfs", 1), ("tap", 2)))),
        ("'rootfs'", "0 given", "block"),
    ),
    "two declared disks and one given": (
        with_disk(on_solo5("mirage", "spt", elf(solo5_notes(2, ("a", 1), ("b", 1))))),
        ("'a', 'b'", "1 given"),
    ),
    "a disk that is not declared": (
        with_disk(on_solo5("mirage", "spt", elf(solo5_notes(2)))),
        ("'block'", "declares no block device"),
    ),
    "a host device": (annotation("block", "/dev/sda"), ("/dev/sda", "host_devices")),
    "an initrd that is not there": (annotation("initrd", "/initrd"), ("'initrd'", "/initrd")),
    "the root file system as a disk": (
        lambda b: (annotation("mountRootfs", "true")(b), annotation("block", "/disk")(b)),
        ("mountRootfs", "not together"),
    ),
    "too little memory": (
        setting("linux.resources.memory.limit", 1 << 20),
        ("memory.limit", "at least"),
    ),
    "a network namespace that is gone": (
        setting(
            "linux.namespaces",
            [{"type": "pid"}, {"type": "network", "path": "/run/netns/gone-urunc"}],
        ),
        ("/run/netns/gone-urunc", "no such file"),
    ),
    "a terminal": (setting("process.terminal", True), ("process.terminal", "console socket")),
    "a failing createRuntime hook": (
        broken_hook("createRuntime"),
        ("createRuntime[0]", "exit code 3", "why"),
    ),
    "a failing createContainer hook": (
        broken_hook("createContainer"),
        ("createContainer[0]", "exit code 3", "why"),
    ),
    "a hook that is not there": (
        setting("hooks", {"prestart": [{"path": "/nothing"}]}),
        ("prestart[0]", "'/nothing'", "no such file"),
    ),
    "a hook that never ends": (
        setting(
            "hooks",
            {"prestart": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]},
        ),
        ("prestart[0]", "not done within 1 s"),
    ),
    "a control group of others": (
        setting("linux.cgroupsPath", "/"),
        ("cgroupsPath", "does not name a group of its own"),
    ),
}


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Bundle:
    need("qemu")
    made = Bundle(tmp_path / "b", "unikraft", "qemu")
    made.add("unikernel", elf())
    return made


@pytest.mark.parametrize("case", CASES)
def test_create_refuses(urunc: Urunc, bundle: Bundle, case: str) -> None:
    change, expected = CASES[case]
    change(bundle)
    path = str(bundle.write())
    urunc("list")  # what the first run alone makes is not this case's
    with nothing_left(urunc.root, bundle.path):
        result = urunc("create", "--bundle", path, urunc.new_id(), check=False)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1
    errors = [line for line in lines if ": warning: " not in line]
    assert len(errors) == 1, result.stderr
    for text in expected:
        assert text in errors[0], errors[0]
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "line 1 column 2"),
        (b"[]", "expected an object, found an array"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (None, "no such file"),
    ],
)
def test_broken_config(urunc: Urunc, bundle: Bundle, content: bytes | None, expected: str) -> None:
    path = bundle.write() / "config.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with nothing_left(urunc.root):
        result = urunc("create", "--bundle", str(bundle.path), urunc.new_id(), check=False)
    assert result.returncode == 1
    assert expected in result.stderr
    assert "config.json" in result.stderr


def test_a_misspelled_annotation(urunc: Urunc, bundle: Bundle) -> None:
    """A warning, beside a unikernel's and where it is all that there is."""
    bundle.config["annotations"][f"{PREFIX}memmory"] = "64"
    container = urunc.create(bundle)
    words = f"annotation '{PREFIX}memmory': unknown, and without effect: is it 'memory'?"
    assert words in container.console.read_text()
    container.delete("--force")
    bundle.config["annotations"] = {f"{PREFIX}unikernlType": "linux"}
    words = f"'{PREFIX}unikernlType': unknown, and without effect: is it 'unikernelType'?"
    planned = urunc("plan", "--bundle", str(bundle.write()))
    assert words in planned.stderr
    assert words in planned.stdout
    document = json.loads(urunc("plan", "--bundle", str(bundle.path), "--format", "json").stdout)
    assert document["ordinary"].startswith("/")
    assert words in "".join(document["warnings"])


def test_plan_warns_as_create_does(urunc: Urunc, bundle: Bundle) -> None:
    """Of the guest and of the network, in both formats, and where programs read the plan on
    standard error, too; nothing goes to the administrator's log."""
    log = urunc.root.parent / "urunc.log"
    urunc.config.write_text(f'{urunc.config.read_text()}[log]\nfile = "{log}"\n')
    bundle.config["annotations"] |= {f"{PREFIX}accelerator": "tcg", f"{PREFIX}consol": "boot"}
    bundle.config["annotations"][f"{PREFIX}ports"] = "80"
    container = urunc.create(bundle)
    told = [
        line.partition("msg=")[2].rpartition(" container=")[0]
        for line in log.read_text().splitlines()
    ]
    container.delete("--force")
    log.unlink()
    planned = urunc("plan", "--bundle", str(bundle.path))
    document = json.loads(urunc("plan", "--bundle", str(bundle.path), "--format", "json").stdout)
    assert set(map(json.loads, told)) == set(document["warnings"])
    assert len(told) == 2
    said = " ".join(planned.stdout.split())
    for text in document["warnings"]:
        assert f"warning: {text}" in said
        assert f"urunc: warning: {text}\n" in planned.stderr
    assert not log.exists()


def test_a_linux_guest_without_a_root_filesystem(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Whose key for it is misspelled, in an annotation or in urunc.json."""
    need("qemu", "linux")
    bundle = Bundle(tmp_path / "b", "linux", "qemu")
    bundle.add("unikernel", PARTS / "linux/vmlinuz")
    bundle.config["annotations"][f"{PREFIX}mountrootfs"] = "true"
    words = "no root filesystem: annotation 'com.urunc.unikernel.mountrootfs': unknown"
    for verb in (["create", urunc.new_id()], ["plan"]):
        refused = urunc(*verb, "--bundle", str(bundle.write()), check=False)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "(give it one of 'initrd', 'block' and 'mountRootfs'" in refused.stderr
    said = {key.removeprefix(PREFIX): text for key, text in bundle.config["annotations"].items()}
    bundle.config["annotations"] = {}
    bundle.add("urunc.json", json.dumps(said).encode())
    refused = urunc("plan", "--bundle", str(bundle.write()), check=False)
    assert "no root filesystem: urunc.json 'mountrootfs': unknown" in refused.stderr
    del said["mountrootfs"]
    bundle.add("urunc.json", json.dumps(said).encode())
    assert "must have one built in" in urunc("plan", "--bundle", str(bundle.path)).stderr


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_administrators_log(urunc: Urunc, bundle: Bundle, form: str) -> None:
    """Beside the engine's, which is gone as a rule: warnings and errors, a line each, with the
    container's id; at the file's end, and not waiting for whoever reads a pipe."""
    engines, own = urunc.root.parent / "engine.log", urunc.root.parent / "urunc.log"
    own.write_text("before\n")
    urunc.config.write_text(f'{urunc.config.read_text()}[log]\nfile = "{own}"\n')
    urunc.options = ["--log", str(engines), "--log-format", form]
    bundle.config["annotations"] |= {f"{PREFIX}accelerator": "tcg", f"{PREFIX}memmory": "64\n"}
    container = urunc.create(bundle)
    assert f"warning: annotation '{PREFIX}memmory': unknown" in container.console.read_text()
    bundle.config["annotations"][f"{PREFIX}memory"] = "none\n"
    other = urunc.new_id()
    assert urunc("create", "--bundle", str(bundle.write()), other, check=False).returncode == 1
    first, warning, error = own.read_text().splitlines()
    assert first == "before"
    stamp = r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"'
    said = rf"annotation '{PREFIX}memmory': unknown, .*"
    assert re.fullmatch(rf'{stamp} level=warning msg="{said}" container="{container.id}"', warning)
    assert re.fullmatch(rf'{stamp} level=error msg=".*" kind=\w+ container="{other}"', error)
    assert len(engines.read_text().splitlines()) == 2
    container.delete("--force")
    own.unlink()
    os.mkfifo(own)
    del bundle.config["annotations"][f"{PREFIX}memory"]
    urunc.create(bundle).delete("--force")
    own.unlink()
    own.symlink_to("/dev/full")
    urunc.create(bundle).delete("--force")


def test_a_plan_is_no_order_to_a_terminal(urunc: Urunc, bundle: Bundle) -> None:
    """What an image, its arguments and hooks say is shown, on the line where it belongs."""
    bundle.args("probe.hang", "\x1b[2J\x9b2J\nwarning: mine\u202e")
    bundle.config["annotations"][f"{PREFIX}\x1b[1m\na"] = "1"
    bundle.config["hooks"] = {"poststop": [{"path": "/bin/true", "args": ["true", "\x1b[2J"]}]}
    planned = urunc("plan", "--bundle", str(bundle.write())).stdout
    assert all(letter.isprintable() for letter in planned.replace("\n", ""))
    assert "\\x1b[2J\\x9b2J\\nwarning: mine\\u202e" in planned
    assert not [line for line in planned.splitlines() if line.startswith("warning: mine")]
    assert max(map(len, planned.partition("command line:")[0].splitlines())) <= 80


def test_an_annotation_that_has_no_use_here(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Refused where it is wrong, as ever; said where it is right."""
    bundle = Bundle(tmp_path / "b", "rumprun", "spt")
    bundle.add("unikernel", elf(solo5_notes(2)))
    asked = bundle.config["annotations"]
    asked |= {f"{PREFIX}accelerator": "kvm", f"{PREFIX}rootfs": "ext2"}
    said = " ".join(urunc("plan", "--bundle", str(bundle.write())).stdout.split())
    assert "annotation 'accelerator': 'kvm' is without effect: spt needs no" in said
    assert "annotation 'rootfs': without effect: the container's root filesystem is not" in said
    asked[f"{PREFIX}accelerator"] = "fast"
    refused = urunc("plan", "--bundle", str(bundle.write()), check=False)
    assert "annotation 'accelerator': 'fast' is unknown" in refused.stderr


@pytest.mark.parametrize(("guest", "directory"), [("mirage", False), ("rumprun", True)])
def test_a_device_without_a_disk(urunc: Urunc, bundle: Bundle, guest: str, directory: bool) -> None:
    """A mount is advised only where the guest would take it."""
    on_solo5(guest, "spt", elf(solo5_notes(2, ("a", 1))))(bundle)
    refused = urunc("plan", "--bundle", str(bundle.write()), check=False).stderr
    assert "declares the block devices 'a', but 0 given (name a block image by" in refused
    assert ("or mount a directory" in refused) == directory


def test_a_message_is_one_line(urunc: Urunc, bundle: Bundle) -> None:
    """What an image says writes no lines of its own, and is no order to a terminal."""
    bundle.config["annotations"][f"{PREFIX}a\nurunc: error: \x1b[2J"] = "1"
    bundle.config["annotations"][f"{PREFIX}memory"] = "\x1b[2J\n\u202eé"
    refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    lines = refused.stderr.splitlines()
    assert len([line for line in lines if line.startswith("urunc: error: ")]) == 1
    assert lines[-1].startswith(
        "urunc: error: annotation 'memory': '\\x1b[2J\\n\\u202eé' is no size"
    )
    assert "\x1b" not in refused.stderr


@pytest.mark.parametrize("identifier", ["a/b", "x" * 1000, "..", "", "a b"])
def test_bad_id(urunc: Urunc, bundle: Bundle, identifier: str) -> None:
    with nothing_left(urunc.root):
        result = urunc("create", "--bundle", str(bundle.write()), identifier, check=False)
    assert result.returncode == 1
    assert "container id" in result.stderr


@pytest.mark.parametrize("verb", ["start", "state", "kill", "delete"])
def test_no_such_container(urunc: Urunc, verb: str) -> None:
    result = urunc(verb, "nothing", check=False)
    assert result.returncode == 1
    assert "container 'nothing' does not exist" in result.stderr


def test_forced_delete_of_nothing(urunc: Urunc) -> None:
    assert urunc("delete", "--force", "nothing").stderr == ""


def test_id_that_exists_and_wrong_states(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("probe", "qemu")
    from lib.support import PARTS

    bundle = Bundle(tmp_path / "b", "unikraft", "qemu", accelerator="tcg")
    bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", "probe.hang")
    container = urunc.create(bundle)
    again = urunc("create", "--bundle", str(bundle.path), container.id, check=False)
    assert again.returncode == 1
    assert "already exists" in again.stderr
    assert container.status() == "created"
    refused = urunc("delete", container.id, check=False)
    assert refused.returncode == 1
    assert "created, not stopped" in refused.stderr
    container.start()
    for verb, words in {"start": "running, not created", "delete": "running, not stopped"}.items():
        refused = urunc(verb, container.id, check=False)
        assert refused.returncode == 1
        assert words in refused.stderr
    urunc("kill", container.id, "KILL")
    container.wait_stopped()
    for verb, words in {"start": "stopped, not created", "kill": "container not running"}.items():
        refused = urunc(verb, container.id, check=False)
        assert refused.returncode == 1
        assert words in refused.stderr
    container.delete()
    assert "does not exist" in urunc("delete", container.id, check=False).stderr


def test_monitor_not_installed(urunc: Urunc, bundle: Bundle) -> None:
    annotation("unikernelType", "mirage")(bundle)
    annotation("hypervisor", "spt")(bundle)
    bundle.add("unikernel", elf(solo5_notes(2)))
    result = urunc(
        "create", "--bundle", str(bundle.write()), urunc.new_id(), check=False, PATH="/usr/bin:/bin"
    )
    assert result.returncode == 1
    assert "'solo5-spt' is not installed" in result.stderr
    assert "monitors.spt.path" in result.stderr


def _in_mount_namespace(script: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{script}; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=patient(60),
    )


@pytest.mark.parametrize("monitor", ["hvt", "firecracker"])
@pytest.mark.parametrize("how", ["absent", "refused"])
def test_no_kvm(urunc: Urunc, bundle: Bundle, monitor: str, how: str) -> None:
    """Without a /dev/kvm that opens, what needs it fails in create, with a hint."""
    need("firecracker" if monitor == "firecracker" else "solo5")
    if monitor == "hvt":
        on_solo5("mirage", "hvt", elf(solo5_notes(1)))(bundle)
    else:
        annotation("hypervisor", monitor)(bundle)
    script = "mount -t tmpfs none /dev; mkdir /dev/net; : >/dev/null; mkdir -p /dev/shm"
    if how == "refused":  # a block device number without a driver: open fails with ENXIO
        script += "; mknod /dev/kvm c 10 254"
    command = urunc.command("create", "--bundle", str(bundle.write()), urunc.new_id())
    with nothing_left(urunc.root):
        result = _in_mount_namespace(script, command)
    assert result.returncode == 1
    assert "needs KVM, but /dev/kvm" in result.stderr
    assert "without KVM use qemu or spt" in result.stderr


def test_full_disk_and_read_only_root(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    command = urunc.command("create", "--bundle", str(bundle.write()), "full")
    command[command.index("--root") + 1] = str(root)
    for script, expected in (
        (f"mount -t tmpfs -o size=4k,nr_inodes=3 none {root}", "no space left on device"),
        (f"mount -t tmpfs -o size=8k none {root}; head -c 8k /dev/zero >{root}/x", "no space left"),
        (f"mount -t tmpfs -o ro none {root}", "read-only file system"),
    ):
        with nothing_left(urunc.root):
            result = _in_mount_namespace(script, command)
        assert result.returncode == 1, script
        assert expected in result.stderr, (script, result.stderr)
        assert "Traceback" not in result.stderr


def test_nothing_left_sees(tmp_path: pathlib.Path) -> None:
    """The comparison itself can fail: a file is seen."""
    need("root")
    with pytest.raises(AssertionError, match="made-up"), nothing_left(tmp_path):
        (tmp_path / "made-up").touch()
