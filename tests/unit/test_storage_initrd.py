# SPDX-License-Identifier: Apache-2.0
"""The initrd's part for a kernel: modules in load order, however they are listed and compressed.
The modules are made here: ELF files with a .modinfo section and nothing else."""

from __future__ import annotations

import gzip
import lzma
import os
import pathlib
import struct
import subprocess

import pytest

from lib.newc import unpacked
from urunc.config import Config
from urunc.errors import HostError
from urunc.storage.initrd import (
    assemble,
    joined,
    kernel_part,
    kernel_part_key,
    known,
    write_kernel_part,
)

DEPENDENCIES = {
    "virtio_ring": "",
    "virtio": "depends=virtio_ring",
    "virtio_blk": "depends=virtio,virtio_ring",
    "fuse": "depends=",
    "virtiofs": "alias=fs-virtiofs\0depends=fuse,virtio_ring,virtio",
    "ext4": "softdep=pre: crc32c post: never\0depends=mbcache",
    "mbcache": "license=GPL",
    "crc32c_generic": "alias=crc32c",
    "never": "",
    "a": "depends=b",
    "b": "depends=a",
}
DIRECTORIES = {"virtio_blk": "drivers/block/virtio-blk.ko"}


def module(information: str) -> bytes:
    """An ELF file of three sections: none, .modinfo, and their names."""
    text, names = b"name=x\0" + information.encode() + b"\0", b"\0.modinfo\0.shstrtab\0"
    sections = [(0, 0, 0), (1, 64, len(text)), (10, 64 + len(text), len(names))]
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 1, 0)
        for name, at, size in sections
    )
    where = 64 + len(text) + len(names)
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, where, 0, 64, 0, 0, 64, 3, 2)
    return head + text + names + table


def kernel(directory: pathlib.Path, suffix: str = "", listed: str = "modules.dep") -> pathlib.Path:
    """A directory as /lib/modules/VERSION."""
    lines = []
    for name, information in DEPENDENCIES.items():
        path = f"kernel/{DIRECTORIES.get(name, f'{name}.ko')}"
        content = module(information)
        if suffix == ".xz":
            content = lzma.compress(content, check=lzma.CHECK_CRC32)
        elif suffix == ".gz":
            content = gzip.compress(content)
        elif suffix == ".zst":
            command = ["zstd", "-cq"]
            content = subprocess.run(command, input=content, capture_output=True, check=True).stdout
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / (path + suffix)).write_bytes(content)
        lines.append(f"{path}{suffix}: anything\n" if listed == "modules.dep" else f"{path}\n")
    (directory / listed).write_text("".join(lines))
    (directory / "modules.builtin").write_text("kernel/fs/erofs/erofs.ko\n")
    return directory


def part(
    directory: pathlib.Path | str, wanted: list[str], target: pathlib.Path
) -> dict[str, bytes]:
    """What is in the part: path → content."""
    init = target.with_suffix(".init")
    init.write_bytes(b"\x7fELF init")
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    write_kernel_part(out, str(directory), wanted, str(init))
    os.close(out)
    nodes = unpacked(target.read_bytes())
    assert nodes[b"init"].mode == 0o100755 and nodes[b"init"].body == b"\x7fELF init"
    assert nodes[b"dev/console"].device == os.makedev(5, 1)
    assert {(node.uid, node.gid, node.mtime) for node in nodes.values()} == {(0, 0, 0)}
    return {os.fsdecode(path): node.body for path, node in nodes.items()}


@pytest.mark.parametrize("listed", ["modules.dep", "modules.order"])
@pytest.mark.parametrize("suffix", ["", ".xz", ".gz", ".zst"])
def test_modules_in_load_order(tmp_path: pathlib.Path, suffix: str, listed: str) -> None:
    directory = kernel(tmp_path / "6.1", suffix, listed)
    wanted = ["virtio-blk", "virtiofs", "erofs", "ext4", "unknown", "virtio"]
    files = part(directory, wanted, tmp_path / "part")
    order = files["modules/order"].decode().split()
    assert order[:5] == ["virtio_ring", "virtio", "virtio_blk", "fuse", "virtiofs"]
    assert order[5:] == ["crc32c_generic", "mbcache", "ext4"]
    for name in order:
        assert files[f"modules/{name}.ko"] == module(DEPENDENCIES[name])


def test_modules_that_need_each_other(tmp_path: pathlib.Path) -> None:
    files = part(kernel(tmp_path / "6.1"), ["a"], tmp_path / "part")
    assert files["modules/order"] == b"b\na\n"


def test_no_modules(tmp_path: pathlib.Path) -> None:
    assert part("", ["virtio_blk"], tmp_path / "part")["modules/order"] == b""
    assert known("", ["ext4"]) == frozenset()


def test_known(tmp_path: pathlib.Path) -> None:
    directory = kernel(tmp_path / "6.1")
    assert known(str(directory), ["ext4", "erofs", "squashfs"]) == {"ext4", "erofs"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("modules.dep", "no modules.dep and no modules.order"),
        ("kernel/ext4.ko", "read kernel module '.*/kernel/ext4.ko': no such file"),
        ("not ELF", "no ELF file"),
        ("cut", "no ELF file"),
        ("bad xz", "kernel module '.*ext4.ko': "),
        ("bad gzip", "kernel module '.*ext4.ko': "),
        ("bad zstd", "kernel module '.*ext4.ko': "),
    ],
)
def test_what_is_wrong_with_modules(tmp_path: pathlib.Path, change: str, message: str) -> None:
    directory = kernel(tmp_path / "6.1")
    file = directory / "kernel/ext4.ko"
    contents = {
        "not ELF": b"text",
        "cut": file.read_bytes()[:70],
        "bad xz": b"\xfd7zXZ\0 and more",
        "bad gzip": b"\x1f\x8b and more",
        "bad zstd": b"\x28\xb5\x2f\xfd and more",
    }
    if change in contents:
        file.write_bytes(contents[change])
    else:
        (directory / change).unlink()
    with pytest.raises(HostError, match=message):
        part(directory, ["ext4"], tmp_path / "part")


def test_key(tmp_path: pathlib.Path) -> None:
    directory = kernel(tmp_path / "6.1")
    init = tmp_path / "init"
    init.touch()

    def key(*wanted: str) -> str:
        return kernel_part_key(str(directory), wanted, str(init))

    first = key("ext4")
    assert key("ext4") == first and key("ext4", "fuse") != first
    init.write_text("another")
    second = key("ext4")
    assert second != first
    (directory / "modules.dep").write_text("")
    assert key("ext4") not in (first, second)


def test_parts_become_one(tmp_path: pathlib.Path) -> None:
    part("", [], tmp_path / "one")
    (tmp_path / "odd").write_bytes((tmp_path / "one").read_bytes().rstrip(b"\0") + b"\0")
    assemble([str(tmp_path / name) for name in ("odd", "one")], str(tmp_path / "initrd"))
    content = (tmp_path / "initrd").read_bytes()
    size = -(-(tmp_path / "odd").stat().st_size // 4) * 4
    assert content[size:] == (tmp_path / "one").read_bytes()
    assert content[:size].rstrip(b"\0") == (tmp_path / "odd").read_bytes().rstrip(b"\0")
    with pytest.raises(FileExistsError):
        assemble([], str(tmp_path / "initrd"))


def test_parts_in_the_cache(tmp_path: pathlib.Path) -> None:
    config = Config()
    config.values["storage.cache"] = str(tmp_path / "cache")
    directory = str(kernel(tmp_path / "6.1"))
    part(directory, ["ext4"], tmp_path / "expected")
    init = str(tmp_path / "expected.init")
    path = kernel_part(directory, ["ext4"], init, config)
    assert pathlib.Path(path).read_bytes() == (tmp_path / "expected").read_bytes()
    inode = os.stat(path).st_ino
    assert kernel_part(directory, ["ext4"], init, config) == path and os.stat(path).st_ino == inode
    other = kernel_part(directory, ["fuse"], init, config)
    both = joined([path, other], config)
    contents = [pathlib.Path(file).read_bytes() for file in (path, other, both)]
    assert contents[0] + contents[1] == contents[2]
    assert joined([other, path], config) != both == joined([path, other], config)
    pathlib.Path(path).write_bytes(b"damaged")
    assert kernel_part(directory, ["ext4"], init, config) == path
    assert pathlib.Path(path).read_bytes() == contents[0]


def test_a_part_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    config = Config()
    config.values["storage.cache"] = str(tmp_path / "cache")
    directory = kernel(tmp_path / "6.1")
    with pytest.raises(HostError, match=r"look at '.*/init': no such file"):
        kernel_part(str(directory), ["ext4"], str(tmp_path / "init"), config)
    (tmp_path / "init").touch()
    (directory / "kernel/ext4.ko").unlink()
    with pytest.raises(HostError, match="read kernel module"):
        kernel_part(str(directory), ["ext4"], str(tmp_path / "init"), config)
    assert os.listdir(tmp_path / "cache") == []
