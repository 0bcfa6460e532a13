# SPDX-License-Identifier: Apache-2.0
"""Build files of images: both formats, what they become, and what is said of broken ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile
from base64 import b64decode
from contextlib import ExitStack
from typing import Any

import pytest

from lib.made import elf, pvh_note, solo5_notes
from urunc.__main__ import run
from urunc.errors import Error
from urunc.image import images

TOML = """\
[image]
kernel = "kernel"
guest = "unikraft"
{}
"""
BUNNY = """\
#syntax=example.org/bunny:latest
version: v0.1
platforms:
  framework: unikraft
  monitor: qemu
  architecture: x86
kernel:
  from: local
  path: kernel
{}
"""


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A directory with a kernel and a folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernel").write_bytes(elf(pvh_note()))
    (tmp_path / "text").write_text("no kernel\n")
    (tmp_path / "files" / "etc").mkdir(parents=True)
    (tmp_path / "files" / "etc" / "motd").write_text("hello\n")
    (tmp_path / "files" / "link").symlink_to("etc/motd")
    return tmp_path


def build(file: str, output: str = "archive:out.tar", *more: str) -> int:
    return run(["image", "build", "--output", output, *more, file])


BROKEN = {
    "no TOML": ("a.toml", "[image]\nkernel = kernel\n", 2, "not TOML", "quotes"),
    "no table": ("a.toml", 'kernel = "kernel"\n', 1, "unknown key 'kernel'", "known: image"),
    "empty": ("a.toml", "\n", 1, "no table [image]", "begin with"),
    "no kernel": ("a.toml", '[image]\nguest = "linux"\n', 1, "no kernel", "add kernel"),
    "a misspelt key": ("a.toml", TOML.format('comand = ["/a"]'), 4, "'comand'", "'command'?"),
    "no list": ("a.toml", TOML.format('command = "/a"'), 4, "'command': expected", "write command"),
    "no string": ("a.toml", TOML.format("version = 17"), 4, "'version': expected", "write version"),
    "no file": ("a.toml", TOML.format('initrd = "disk"'), 4, "'disk': no such file", "looked for"),
    "out of the image": (
        *("a.toml", TOML.format('[image.files]\n"/../x" = "text"'), 5),
        *("'..' in it", "as it is in the image"),
    ),
    "an unknown guest": (
        *("a.toml", TOML.format("").replace("unikraft", "unicraft"), 3),
        *("guest 'unicraft'", "'unikraft'?"),
    ),
    "a monitor that does not fit": (
        "a.toml", TOML.format('monitor = "hvt"'), 4, "does not run on it", "firecracker, qemu",
    ),
    "no kernel at all": (
        "a.toml", TOML.format("").replace('"kernel"', '"text"'), 2, "built for", "urunc runs on",
    ),
    "an unknown machine": (
        "a.toml", TOML.format("[platform.sparc]"), 4, "architecture 'sparc'", "known: ",
    ),
    "a container's annotation": (
        *("a.toml", TOML.format('[image.annotations]\nmemory = "64"'), 5),
        *("an image cannot say it", "where the container is made"),
    ),
    "a wrong environment": (
        *("a.toml", TOML.format('[image.environment]\nA = 1'), 4),
        *("'A': expected a string", 'A = "1"'),
    ),
    "no YAML": ("bunnyfile", BUNNY.format("cmd: [a"), 11, "not YAML", "quote values"),
    "no version": (
        "bunnyfile", BUNNY.format("").replace("version: v0.1\n", ""), 2, "'version' missing", "add",
    ),
    "a newer version": (
        *("bunnyfile", BUNNY.format("").replace("v0.1", "v0.9"), 2),
        *("version 'v0.9' is unknown", "reads v0.1"),
    ),
    "an unknown type": (
        *("bunnyfile", BUNNY.format("rootfs:\n  type: zip"), 11),
        *("rootfs type 'zip'", "initrd, raw, block"),
    ),
    "a path from nowhere": (
        *("bunnyfile", BUNNY.format("rootfs:\n  path: files"), 11),
        *("'path' without 'from'", "from: local"),
    ),
    "no monitor": (
        *("bunnyfile", BUNNY.format("").replace("  monitor: qemu\n", ""), 4),
        *("'monitor' missing", "below platforms"),
    ),
    "an include without a source": (
        *("bunnyfile", BUNNY.format("rootfs:\n  include:\n    - destination: /a"), 12),
        *("no source", "SOURCE:DESTINATION"),
    ),
    "a file that is not there": (
        *("bunnyfile", BUNNY.format("rootfs:\n  include:\n    - nothing:/a"), 12),
        *("no such file", ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(case: str, place: pathlib.Path) -> None:
    """The file and the line, what is wrong, and what to do; and nothing is left."""
    name, text, line, message, hint = BROKEN[case]
    (place / name).write_text(text)
    before = sorted(os.listdir(place))
    with pytest.raises(Error) as caught:
        build(name)
    assert caught.value.message.startswith(f"{name}:{line}: "), caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert sorted(os.listdir(place)) == before


def loaded(path: str, architecture: str = "amd64") -> tuple[images.Image, dict[str, str]]:
    """An image, and what its urunc.json says; contents are read while the archive is open."""
    with ExitStack() as stack:
        image = images.load(path, architecture, stack)
        said = json.loads(content(image, "urunc.json"))
        return image, {key.rpartition(".")[2]: b64decode(said[key]).decode() for key in said}


def content(image: images.Image, path: str) -> bytes:
    entry = image.find(path)
    assert entry, path
    assert entry.open, path
    with entry.open() as file:
        return file.read()


def test_what_a_toml_file_becomes(place: pathlib.Path) -> None:
    (place / "a.toml").write_text(
        TOML.format(
            'version = "0.17.0"\ninitrd = "files"\ncommand = ["/server", "-v"]\n'
            '[image.environment]\nPORT = "80"\n[image.annotations]\n"org.example.a" = "b"\n'
        )
    )
    assert build("a.toml", "archive:out.tar", "--name", "hello") == 0
    image, said = loaded("out.tar")
    assert said == {
        "unikernelType": "unikraft",
        "hypervisor": "qemu",
        "binary": "/.boot/kernel",
        "initrd": "/.boot/initrd",
        "unikernelVersion": "0.17.0",
        "cmdline": "/server -v",
    }
    settings = image.config["config"]
    assert (settings["Cmd"], settings["Env"]) == (["/server", "-v"], ["PORT=80"])
    assert image.annotations["org.example.a"] == "b"
    with ExitStack() as stack:
        opened = images.load("out.tar", "amd64", stack)
        assert content(opened, ".boot/kernel") == elf(pvh_note())
        assert b"etc/motd" in content(opened, ".boot/initrd")


@pytest.mark.parametrize("old", [False, True])
def test_what_a_bunnyfile_becomes(place: pathlib.Path, old: bool) -> None:
    """In the form of its first days, and of now."""
    text = "cmdline: /server -v" if old else 'cmd: ["/server", "-v"]\nenvs: ["A=b"]'
    item = "- files/etc/motd:/motd" if old else "- source: files/etc/motd\n      destination: /motd"
    (place / "bunnyfile").write_text(BUNNY.format(f"{text}\nrootfs:\n  include:\n    {item}"))
    build("bunnyfile")
    image, said = loaded("out.tar")
    assert image.config["config"]["Cmd"] == ["/server", "-v"]
    assert said["initrd"] == "/.boot/initrd"
    with ExitStack() as stack:
        assert b"motd" in content(images.load("out.tar", "amd64", stack), ".boot/initrd")


def test_the_same_bytes(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the times and the order of files; SOURCE_DATE_EPOCH alone changes them."""
    (place / "a.toml").write_text(TOML.format('initrd = "files"'))
    build("a.toml", "archive:1.tar")
    os.utime(place / "files" / "etc" / "motd", (1, 1))
    os.utime(place / "kernel", (1, 1))
    build("a.toml", "archive:2.tar")
    assert (place / "1.tar").read_bytes() == (place / "2.tar").read_bytes()
    monkeypatch.setattr("posix.environ", {b"SOURCE_DATE_EPOCH": b"1700000000"})
    build("a.toml", "archive:3.tar")
    assert loaded("3.tar")[0].config["created"] == "2023-11-14T22:13:20Z"


def test_several_platforms(place: pathlib.Path) -> None:
    """One index, of which a reader takes its machine's."""
    (place / "arm").write_bytes(bytes(0x38) + b"ARM\x64" + bytes(0x200))
    (place / "a.toml").write_text(
        '[image]\nguest = "linux"\nmonitor = "qemu"\ncommand = ["/a"]\n'
        '[platform.x86_64]\nkernel = "kernel"\n[platform.aarch64]\nkernel = "arm"\n'
    )
    build("a.toml", "oci:out")
    for architecture, size in (("amd64", len(elf(pvh_note()))), ("arm64", 0x23C)):
        image, _ = loaded("out", architecture)
        kernel = image.find("/.boot/kernel")
        assert kernel
        assert (image.config["architecture"], kernel.size_bytes) == (architecture, size)


def test_files_of_another_image(place: pathlib.Path) -> None:
    """A kernel and an initrd of what another image's layers hold together."""
    layers = [
        {"unikraft/bin/kernel": elf(pvh_note()), "app/a": b"old", "app/gone": b"x"},
        {"app/a": b"new", "app/.wh.gone": b""},
    ]
    docker_archive(place / "other.tar", layers)
    (place / "a.toml").write_text(
        '[image]\nguest = "unikraft"\n'
        'kernel = { image = "other.tar", path = "/unikraft/bin/kernel" }\n'
        '[image.files]\n"/data" = { image = "other.tar", path = "/app" }\n'
    )
    build("a.toml")
    with ExitStack() as stack:
        image = images.load("out.tar", "amd64", stack)
        assert content(image, "data/a") == b"new"
        assert image.find("data/gone") is None
        assert content(image, ".boot/kernel") == elf(pvh_note())


def docker_archive(path: pathlib.Path, layers: list[dict[str, bytes]], **config: Any) -> None:
    """An archive as docker save makes it, its layers compressed."""
    files = {f"{number}.tar": gzip.compress(tar(layer)) for number, layer in enumerate(layers)}
    manifest = [{"Config": "config.json", "RepoTags": [], "Layers": list(files)}]
    documents = {"config.json": config, "manifest.json": manifest}
    files |= {name: json.dumps(value).encode() for name, value in documents.items()}
    path.write_bytes(tar(files))


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def report(path: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    run(["image", "inspect", "--format", "json", path])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_what_kraft_makes(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = {"unikraft/bin/kernel": elf(pvh_note()), "unikraft/bin/initrd": b"070701"}
    labels = {"org.unikraft.kernel.version": "0.17.0"}
    docker_archive(place / "k.tar", [kernel], os="fc", config={"Labels": labels, "Cmd": ["/a"]})
    found = report("k.tar", capsys)
    assert (found["made_by"], found["guest"], found["version"]) == ("kraft", "unikraft", "0.17.0")
    assert (found["monitor"], found["initrd"]) == ("firecracker", "/unikraft/bin/initrd")


def test_what_is_odd(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an image says, against what its files are."""
    (place / "solo5").write_bytes(elf(solo5_notes(1)))
    said = {
        "unikernelType": "mirage",
        "hypervisor": "spt",
        "binary": "/k",
        "memory": "5",
        "ini": "",
    }
    files = {"urunc.json": json.dumps(said).encode(), "k": (place / "solo5").read_bytes()}
    docker_archive(place / "odd.tar", [files])
    odd = " ".join(report("odd.tar", capsys)["odd"])
    for words in ("'memory': without effect", "'ini': unknown", "built for hvt"):
        assert words in odd


def test_a_changed_blob(place: pathlib.Path) -> None:
    (place / "a.toml").write_text(TOML.format(""))
    build("a.toml", "oci:out")
    for blob in (place / "out/blobs/sha256").iterdir():
        data = bytearray(blob.read_bytes())
        if b"urunc.json" in data and data[:1] != b"{":
            data[-1] ^= 1
            assert hashlib.sha256(data).hexdigest() != blob.name
            blob.write_bytes(data)
    with pytest.raises(Error, match="its content has another digest"):
        loaded("out")
