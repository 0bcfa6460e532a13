# SPDX-License-Identifier: Apache-2.0
"""An image with links, and with a device's name, where other runtimes make files, devices and
mounts in its root: nothing is made or changed where they lead."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from lib.support import Bundle, Urunc, nothing_left

NAMES = (
    "dev", "dev/null", "dev/console", "dev/pts", "dev/ptmx", "dev/shm", "dev/kvm", "proc", "sys",
    "proc/self", "proc/sys", "sys/fs/cgroup", "run", "etc/passwd", "etc/resolv.conf", "tmp",
    ".krun_config.json", "urunc.conf",
)  # fmt: skip
"""What runtimes make, mask or mount."""
MASKED = ["/proc/kcore", "/proc/sysrq-trigger", "/sys/firmware", "/dev/null"]
READ_ONLY = ["/proc/sys", "/proc/bus"]


def listing(directory: pathlib.Path) -> dict[str, tuple[object, ...]]:
    """All that is in a directory: what changes if anything there does."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(directory.rglob("*")):
        facts = path.lstat()
        found[str(path)] = (facts.st_ino, facts.st_mode, facts.st_uid, facts.st_size,
                            facts.st_mtime_ns, facts.st_ctime_ns)  # fmt: skip
    return found


@pytest.mark.parametrize("name", NAMES)
def test_links_in_place_of_what_runtimes_make(
    urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path, name: str
) -> None:
    """With masked and read-only paths, a kernel parameter, a hostname; the links lead to the
    host's files by absolute paths and by `..`."""
    host = tmp_path / "host"
    (host / "there").mkdir(parents=True)
    (host / "file").write_text("mine\n")
    place = bundle.root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(host / "there" if name in ("dev", "proc", "sys", "run", "tmp") else host / "x")
    up = "/".join([".."] * (name.count("/") + 2))
    (bundle.root / f"{name}.up".replace("/", "_")).symlink_to(f"{up}/host/file")
    linux = bundle.config["linux"]
    linux |= {"maskedPaths": MASKED, "readonlyPaths": READ_ONLY}
    linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "7"}
    bundle.config["hostname"] = "box"
    bundle.write()
    before = listing(host) | listing(bundle.root)
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        container.report()
        root = pathlib.Path(f"/proc/{container.pid}/root")
        assert not (root / "proc").exists() and not (root / "sys").exists()
        for made in (root / "dev", root / "run"):
            assert made.is_dir() and not made.is_symlink()
        assert json.loads(urunc("state", container.id).stdout)["status"] == "running"
        container.delete("--force")
    assert listing(host) | listing(bundle.root) == before
    assert os.listdir(host / "there") == []
