# SPDX-License-Identifier: Apache-2.0
"""`urunc try` up to what takes a kernel: ports, an image's files, the bundle."""

from __future__ import annotations

import io
import json
import os
import pathlib
import socket
import tarfile
from contextlib import ExitStack
from typing import Any

import pytest

from urunc.config import Config
from urunc.errors import HostError, ImageError, UsageError
from urunc.image import images
from urunc.trial import bundle, ports, unpack
from urunc.trial.bundle import Machine
from urunc.trial.subject import Subject, Wishes, resolve

Member = tuple[str, str | bytes | None]
"""A path, and its content; `link:TARGET`, `hard:TARGET`; None for a directory."""


def layer(*members: Member) -> bytes:
    """A layer's archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if content is None else 0o4711
            if content is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                kind, _, member.linkname = content.partition(":")
                member.type = tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE
            else:
                member.size = len(content)
            member.uid, member.gid = os.getuid(), os.getgid()
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def image(directory: pathlib.Path, config: dict[str, Any], *layers: bytes) -> str:
    """An archive as docker save writes it."""
    path = directory / "image.tar"
    names = [f"{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": "config", "Layers": names, "RepoTags": None}]
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "config": json.dumps({"config": config}).encode(),
        **dict(zip(names, layers, strict=True)),
    }
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def unpacked(directory: pathlib.Path, *layers: bytes) -> pathlib.Path:
    """The files of an image."""
    target = directory / "root"
    target.mkdir()
    with ExitStack() as stack:
        found = images.load(image(directory, {}, *layers), "amd64", stack)
        unpack.unpack(found, str(target))
    return target


def test_layers(tmp_path: pathlib.Path) -> None:
    """Whiteouts, opaque directories, hard links, modes, and a file below a link of a lower one."""
    root = unpacked(
        tmp_path,
        layer(("lib", "link:usr/lib"), ("usr/lib", None), ("gone", b"x"), ("old/a", b"x")),
        layer((".wh.gone", b""), ("old/.wh..wh..opq", b""), ("old/b", b"b"), ("lib/c", b"c")),
        layer(("one", b"same"), ("two", "hard:one")),
    )
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    assert found == {"old/b", "usr/lib/c", "one", "two"}
    assert (root / "lib/c").read_bytes() == b"c"
    assert (root / "lib").readlink() == pathlib.Path("usr/lib")
    assert (root / "one").stat().st_ino == (root / "two").stat().st_ino
    assert (root / "one").stat().st_mode & 0o7777 == 0o4711


@pytest.mark.parametrize(
    "members",
    [
        [("../outside", b"x")],
        [("a/../../outside", b"x")],
        [("link", "link:.."), ("link/outside", b"x")],
        [("link", "link:/"), ("link/outside", b"x")],
        [("link", "link:../.."), ("other", "hard:link/outside")],
        [("/outside", b"x")],
    ],
)
def test_nothing_leaves_the_root(tmp_path: pathlib.Path, members: list[Member]) -> None:
    """Whatever the names are, and whichever layer they are in."""
    outside = {*tmp_path.parent.iterdir(), tmp_path / "root", tmp_path / "image.tar"}
    root = unpacked(tmp_path, *(layer(member) for member in members))
    assert {*tmp_path.parent.iterdir(), *tmp_path.iterdir()} == outside
    assert all(path.parent == root for path in root.rglob("outside"))
    assert not pathlib.Path("/outside").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", (ports.LOOPBACK, 8080, 80, "tcp")),
        ("80", (ports.LOOPBACK, 0, 80, "tcp")),
        (":80/udp", (ports.LOOPBACK, 0, 80, "udp")),
        ("0.0.0.0:8080:80/tcp", (("0.0.0.0",), 8080, 80, "tcp")),
        ("[::]:8080:80", (("::",), 8080, 80, "tcp")),
    ],
)
def test_ports(text: str, expected: tuple[Any, ...]) -> None:
    port = ports.parse(text)
    assert (port.addresses, port.host, port.guest, port.protocol) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "80:", "80:0", "65536", "8080:80/sctp", "[::1:80", "a:80:80", "1:2:3:4", "-1"]
)
def test_no_ports(text: str) -> None:
    with pytest.raises(UsageError, match="option '--publish'"):
        ports.parse(text)


def test_one_number_for_both_families() -> None:
    """A free port is the same at 127.0.0.1 and ::1; one in use is refused."""
    with ExitStack() as stack:
        found = ports.open_at(ports.parse("80"), stack)
        assert len({item.port.host for item in found}) == 1
        assert next(item.address for item in found) == "127.0.0.1"
        with pytest.raises(HostError, match="address already in use"):
            ports.open_at(ports.parse(f"{found[0].port.host}:80"), stack)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", found[0].port.host))  # closed with the stack


def subject(**fields: Any) -> Subject:
    """What is tried."""
    given: dict[str, Any] = {
        "what": "kernel", "annotations": {"unikernelType": "linux", "mountRootfs": "true"},
        "settings": {}, "command": ("sh",), "environment": ("A=image", "B=image"),
        "directory": "/", "user": "", "remarks": (),
    }  # fmt: skip
    return Subject(**given | fields)


def test_the_bundle(tmp_path: pathlib.Path) -> None:
    machine = Machine(
        memory="1g", cpus="2", accelerator="tcg", volumes=(f"{tmp_path}:/v:ro",),
        environment=("B=given",),
    )  # fmt: skip
    made = bundle.document(subject(), machine, "/root", "/proc/1/fd/3", "/tmp/resolv.conf")
    assert made["process"]["env"] == [bundle.SEARCH, "A=image", "B=given"]
    prefix = "com.urunc.unikernel."
    assert made["annotations"][f"{prefix}memory"] == "1024Mi"
    assert made["annotations"][f"{prefix}vcpus"] == "2"
    assert made["annotations"][f"{prefix}accelerator"] == "tcg"
    assert [item["destination"] for item in made["mounts"]] == ["/v", "/etc/resolv.conf"]
    assert made["mounts"][0]["options"] == ["rbind", "ro"]
    assert made["linux"]["namespaces"][0] == {"type": "network", "path": "/proc/1/fd/3"}


def test_the_image_s_user(tmp_path: pathlib.Path) -> None:
    """By number, or by its name in the image's own files."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nmary:x:7:8::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("staff:x:50:\n")
    root = str(tmp_path)
    users = {"": (0, 0), "5": (5, 0), "5:6": (5, 6), "mary": (7, 8), "mary:staff": (7, 50)}
    assert {user: bundle.owner(user, root) for user in users} == users
    with pytest.raises(ImageError, match="its user 'nobody' is not in its /etc/passwd"):
        bundle.owner("nobody", root)


def test_the_command(tmp_path: pathlib.Path) -> None:
    """An entry point stays, the image's words are replaced; a kernel of the configuration's."""
    reference = image(
        tmp_path, {"Entrypoint": ["/e"], "Cmd": ["c"], "WorkingDir": "/w", "User": "3"},
        layer(("a", b"a"), ("b", b"b")),
    )  # fmt: skip
    config = Config()
    config.values["guests.linux.kernel"] = "/vmlinuz"
    found = []
    for number, words in enumerate([(), ("x", "y")]):
        root = tmp_path / str(number)
        root.mkdir()
        with ExitStack() as stack:
            found.append(resolve(reference, Wishes(words=words), str(root), config, stack))
    assert [item.command for item in found] == [("/e", "c"), ("/e", "x", "y")]
    assert found[0].annotations["mountRootfs"] == "true"
    assert (found[0].directory, found[0].user) == ("/w", "3")


def test_name_servers(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on loopback are nobody's but this machine's."""
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text("nameserver ::1\nnameserver 192.0.2.1\nsearch example.org\n")
    monkeypatch.setattr(bundle, "RESOLVERS", (str(tmp_path / "none"), str(stub), str(real)))
    path = bundle.resolver(str(tmp_path))
    assert pathlib.Path(path).read_text() == "nameserver 192.0.2.1\nsearch example.org\n"
    monkeypatch.setattr(bundle, "RESOLVERS", (str(stub),))
    assert bundle.resolver(str(tmp_path)) == ""
