# SPDX-License-Identifier: Apache-2.0
"""Bundles whose root filesystem is a Linux guest's own, run by urunc's command line. QEMU emulates:
Linux does not run on every nested KVM."""

from __future__ import annotations

import json
import pathlib
import subprocess

from lib import busybox
from lib.support import PARTS, Bundle, Urunc

APPLETS = (
    "cat", "chmod", "chown", "cut", "dd", "df", "free", "grep", "head", "hostname", "id", "ip",
    "kill", "ls", "mkdir", "mknod", "mount", "od", "poweroff", "reboot", "rm", "sed", "sh",
    "sha256sum", "sleep", "stat", "stty", "tail", "tee", "touch", "true", "tty", "umount", "uname",
    "wc", "wget", "yes",
)  # fmt: skip

SPARED = (
    "mitigations=off", "cryptomgr.notests", "noreplace-smp", "nolapic_timer",
    "initcall_blacklist=init_kprobe_trace,crypto_kdf108_init,load_system_certificate_list,slab_sysfs_init",
)  # fmt: skip
"""Words of the kernel's line that spare a boot under emulation CPU time: 0.2 s the first two, code
that the kernel rewrites and emulation translates anew, and tests of what these tests do not ask
about; 0.2 s the next two, code that is rewritten for one CPU, and a wait of 100 ms for a timer's
speed; 0.2 s the last, parts of the kernel that no test has to do with."""


def spared(*words: str) -> dict[str, object]:
    """config.json's `vm` of a guest whose kernel is told these words, too."""
    return {"kernel": {"parameters": [*words, *SPARED]}}


def configure(urunc: Urunc, *forms: str, **more: str | bool | int) -> None:
    """A kernel of the administrator's, which mounts these forms; files of urunc's own beside its
    state."""
    keys = {
        "guests.linux.kernel": str(PARTS / "linux/vmlinux"),
        "guests.linux.modules": str(PARTS / "linux/lib-modules"),
        "monitors.qemu.accelerator": "tcg",
        "storage.cache": str(urunc.root.parent / "cache"),
        "storage.private": str(urunc.root.parent / "private"),
        "storage.slack_mib": 16,
        **more,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    lines += [f"guests.linux.filesystems = {json.dumps(forms)}"] if forms else []
    urunc.config.write_text("\n".join(lines) + "\n")


def populate(root: pathlib.Path) -> None:
    """A small root filesystem: busybox, a user, empty directories."""
    busybox.install(root / "bin", *APPLETS)
    for directory in ("etc", "tmp", "proc"):
        (root / directory).mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")


def linux(path: pathlib.Path, script: str, *words: str, **annotations: str) -> Bundle:
    """A bundle with that root filesystem, which runs a script."""
    bundle = Bundle(path, "linux", "qemu", binary="", mountRootfs="true", **annotations)
    populate(bundle.root)
    bundle.args("sh", "-c", script, *words)
    bundle.config["process"]["env"] = ["PATH=/bin"]
    bundle.config["vm"] = spared()
    del bundle.config["linux"]["resources"]
    return bundle


def own_init(path: pathlib.Path, *command: str, **annotations: str) -> Bundle:
    """A bundle of the same kernel with an initrd of its own, the parts', whose first program runs a
    command: there urunc's init is not."""
    bundle = Bundle(path, "linux", "qemu", accelerator="tcg", **annotations)
    bundle.add("unikernel", PARTS / "linux/vmlinux")
    bundle.args(*command)
    bundle.config["vm"] = spared("quiet")
    bundle.config["linux"]["resources"]["memory"]["limit"] = 320 << 20
    return bundle


def run(urunc: Urunc, bundle: Bundle) -> subprocess.CompletedProcess[str]:
    """`run` of it, to its end."""
    return urunc("run", "--bundle", str(bundle.write()), urunc.new_id(), check=False, timeout_s=120)


def by_runc(urunc: Urunc, bundle: Bundle) -> subprocess.CompletedProcess[str]:
    """The same bundle as an ordinary container of runc's, to its end: what a guest should show."""
    config = dict(bundle.config)
    bundle.config = {**config, "annotations": {}}
    try:
        return run(urunc, bundle)
    finally:
        bundle.config = config


def volume(destination: str, source: pathlib.Path, *options: str) -> dict[str, object]:
    """A bind mount of config.json."""
    return {
        "destination": destination, "source": str(source), "type": "bind",
        "options": ["rbind", *options],
    }  # fmt: skip


PROC = {"destination": "/proc", "type": "proc", "source": "proc"}
"""runc needs it; a guest has its own."""


def answers(output: str) -> dict[str, str]:
    """What a script printed after each line `== NAME`; the rest is a guest's and runc's own."""
    return {
        name: text.replace("\r\n", "\n")
        for name, _, text in (part.partition("\n") for part in output.split("== ")[1:])
    }
