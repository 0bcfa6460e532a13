# SPDX-License-Identifier: Apache-2.0
"""Whose files are in a Linux guest whose container has a user namespace: the ids that the container
sees, whichever way they come, as runc's container has them."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from lib.rooted import configure, linux, run, volume
from lib.support import Bundle, Urunc, need

FIRST, COUNT = 700_000, 65_536
MAPPING = [{"containerID": 0, "hostID": FIRST, "size": COUNT}]
STAT = "stat -c '%n %u:%g %a'"
LOOK = f"{STAT} /etc /etc/passwd /etc/mary /etc/alien /bin/busybox {{}}"
LOOK_AT_MAPPED = f"{STAT} {{0}} {{0}}/secret {{0}}/alien"
IDS = {
    "/data": "0:0 750", "/data/secret": "1000:0 400", "/data/alien": "65534:65534 644",
}  # fmt: skip
ROOT = {
    "/etc": "0:0 755", "/etc/passwd": "0:0 644", "/etc/mary": "1000:1001 640",
    "/etc/alien": "65534:65534 644", "/bin/busybox": "0:0 755",
}  # fmt: skip
VOLUME = {
    "/data": "0:0 750", "/data/secret": "1000:0 400", "/data/alien": "65534:65534 644",
    "/plain": "0:5 600",
}  # fmt: skip


def mapped(bundle: Bundle, mapping: list[dict[str, int]] = MAPPING) -> Bundle:
    """Give it a user namespace, and its root filesystem the ids of that, as an engine does; two
    files have others."""
    config = bundle.config["linux"]
    config["namespaces"] += [{"type": "user"}]
    config |= {"uidMappings": mapping, "gidMappings": mapping}
    (bundle.root / "etc/mary").write_text("hers\n")
    (bundle.root / "etc/mary").chmod(0o640)
    first = mapping[0]["hostID"]
    for path in (bundle.root, *bundle.root.rglob("*")):
        os.chown(path, first, first, follow_symlinks=False)
    os.chown(bundle.root / "etc/mary", first + 1000, first + 1001)
    (bundle.root / "etc/alien").write_text("of the host\n")
    return bundle


def directory(path: pathlib.Path, first: int = FIRST) -> pathlib.Path:
    """A volume with files of the container's ids, and of others."""
    path.mkdir(mode=0o750)
    (path / "secret").write_text("a secret\n")
    (path / "secret").chmod(0o400)
    (path / "alien").write_text("of the host\n")
    os.chown(path, first, first)
    os.chown(path / "secret", first + 1000, first)
    return path


def owners(said: str) -> dict[str, str]:
    """What stat(1) has said of each."""
    lines = (line.partition(" ") for line in said.splitlines() if line.startswith("/"))
    return {name: facts for name, _, facts in lines}


def proc() -> dict[str, object]:
    """What runc needs to set a container's labels."""
    return {"destination": "/proc", "type": "proc", "source": "proc"}


def by_runc(bundle: Bundle, identifier: str) -> dict[str, str]:
    """What runc's container of the same bundle says."""
    need("runc")
    words = ["runc", "run", "--bundle", str(bundle.write()), identifier]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    return owners(done.stdout)


@pytest.fixture
def open_path() -> Iterator[pathlib.Path]:
    """A directory that the root of a user namespace can reach."""
    with tempfile.TemporaryDirectory(prefix="urunc-test-") as directory:
        path = pathlib.Path(directory)
        path.chmod(0o711)
        yield path


@pytest.mark.parametrize("form", ["erofs", "ext4", "squashfs", "cpio", "virtiofs"])
def test_files_of_a_user_namespace(urunc: Urunc, open_path: pathlib.Path, form: str) -> None:
    """Of the image and of volumes, copied or shared, as runc's container has them; and new ones.

    Then also of mounts with `uidMappings` (/mapped), and shared ones with option `idmap` (/own),
    where the container writes with ids that are on the disk as it sees them. (runc has them from
    1.2 on.)"""
    need("linux", "qemu", "images", *(("virtiofsd",) if form == "virtiofs" else ()))
    configure(urunc, form)
    (open_path / "plain").write_text("plain\n")
    (open_path / "plain").chmod(0o600)
    os.chown(open_path / "plain", FIRST, FIRST + 5)
    script = LOOK.format("/data /data/secret /data/alien /plain")
    bundle = mapped(linux(open_path / "b", script, "sh", rootfs=form))
    bundle.config["mounts"] = [
        proc(),
        volume("/data", directory(open_path / "data"), "ro"),
        volume("/plain", open_path / "plain", "ro"),
    ]
    assert by_runc(bundle, urunc.new_id()) == ROOT | VOLUME
    mapping = [{"containerID": 300_000, "hostID": FIRST, "size": COUNT}]
    shown = volume("/mapped", directory(open_path / "mapped", first=300_000), "ro")
    bundle.config["mounts"] += [shown | {"uidMappings": mapping, "gidMappings": mapping}]
    script += f"; {LOOK_AT_MAPPED.format('/mapped')}; touch /new; chown 7:8 /new; {STAT} /new"
    mapped_seen = {name.replace("/data", "/mapped"): facts for name, facts in IDS.items()}
    own = directory(open_path / "own", first=0)
    if form == "virtiofs":
        bundle.config["mounts"] += [volume("/own", own, "idmap")]
        script += f"; {STAT} /own /own/secret; touch /own/new; chown 7:8 /own/new"
        mapped_seen |= {"/own": "0:0 750", "/own/secret": "1000:0 400"}
    bundle.args("sh", "-c", script)
    found = run(urunc, bundle)
    assert found.returncode == 0, found.stdout + found.stderr
    assert owners(found.stdout) == ROOT | VOLUME | mapped_seen | {"/new": "7:8 644"}
    new = bundle.root / "new"
    if form == "virtiofs":
        assert (new.stat().st_uid, new.stat().st_gid) == (FIRST + 7, FIRST + 8)
        assert ((own / "new").stat().st_uid, (own / "new").stat().st_gid) == (7, 8)
    else:
        assert not new.exists()


def test_an_image_for_each_mapping(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Of the same files: a container without a user namespace sees the host's ids."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    bundle = mapped(linux(tmp_path / "b", "stat -c '%n %u:%g %a' /etc", "sh"))
    assert owners(run(urunc, bundle).stdout) == {"/etc": "0:0 755"}
    for key in ("uidMappings", "gidMappings"):
        del bundle.config["linux"][key]
    bundle.config["linux"]["namespaces"].pop()
    assert owners(run(urunc, bundle).stdout) == {"/etc": f"{FIRST}:{FIRST} 755"}


@pytest.mark.parametrize("form", ["virtiofs", "ext4"])
def test_mounts_with_mapped_ids(urunc: Urunc, tmp_path: pathlib.Path, form: str) -> None:
    """`uidMappings` of a mount, as Kubernetes has them for volumes of pods with users of their own,
    but in a container without a user namespace: shared or copied. (runc has them from 1.2 on.)"""
    need("linux", "qemu", "images", *(("virtiofsd",) if form == "virtiofs" else ()))
    configure(urunc, form)
    bundle = linux(tmp_path / "b", LOOK_AT_MAPPED.format("/data"), "sh", rootfs=form)
    mapping = [{"containerID": 300_000, "hostID": 0, "size": COUNT}]
    shown = volume("/data", directory(tmp_path / "data", first=300_000), "ro")
    shown |= {"uidMappings": mapping, "gidMappings": mapping}
    bundle.config["mounts"] = [proc(), shown]
    found = run(urunc, bundle)
    assert found.returncode == 0, found.stdout + found.stderr
    assert owners(found.stdout) == IDS


@pytest.mark.parametrize(
    ("mount", "complaint"),
    [
        ({"uidMappings": MAPPING}, "mounts[0].gidMappings: it has to be there"),
        ({"options": ["bind", "idmap"]}, "neither the mount nor the container has id mappings"),
        ({"options": ["bind", "idmap=uids=0-1-2"]}, "say it by uidMappings and gidMappings"),
        (
            {"type": "tmpfs", "options": [], "uidMappings": MAPPING, "gidMappings": MAPPING},
            "only a bind mount can show other ids",
        ),
        ({"source": "/proc", "uidMappings": MAPPING, "gidMappings": MAPPING}, "maps no ids"),
    ],
)
def test_ids_that_cannot_be_mapped(
    urunc: Urunc, tmp_path: pathlib.Path, mount: dict[str, object], complaint: str
) -> None:
    need("root", "linux", "qemu", "images")
    configure(urunc, "ext4")
    (tmp_path / "data").mkdir()
    bundle = linux(tmp_path / "b", "true", "sh")
    bundle.config["mounts"] = [volume("/data", tmp_path / "data", "ro") | mount]
    found = run(urunc, bundle)
    assert found.returncode == 1
    assert complaint in found.stderr
